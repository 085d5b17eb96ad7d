"""Grids, resampling and whole sessions, against hand-made values and analytic images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agi_core.data import preprocess
from agi_core.data.header import Grid
from agi_core.data.nifti import Volume, write_scan
from agi_core.data.scans import Session
from agi_core.errors import DataError
from agi_core.scenario import Scenario
from tests.support.head_scans import ball, head_scan

Array = np.ndarray[Any, np.dtype[Any]]


def positions_mm(grid: Grid) -> Array:
    """World coordinates (I, J, K, 3) of a grid's voxels."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    return np.asarray(index @ grid.affine[:3, :3].T + grid.affine[:3, 3])


def ramp(grid: Grid) -> Array:
    """An image that is linear in world coordinates: trilinear interpolation is exact on it."""
    return np.asarray(positions_mm(grid) @ [1.0, 2.0, -0.5] + 10, dtype=np.float32)


def test_head_box() -> None:
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[1, 2, 3] = mask[3, 2, 6] = True
    assert preprocess.head_box(mask) == (slice(1, 4), slice(2, 3), slice(3, 7))


def rotated(spacing: tuple[float, float, float], angle_rad: float, origin: tuple[float, float, float]) -> Array:
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


@pytest.mark.parametrize("angle_rad", [0.0, 0.2])
def test_resampling_reproduces_a_linear_image(angle_rad: float) -> None:
    source = Grid((30, 30, 30), rotated((1.1, 0.9, 1.3), angle_rad, (-5, -8, -4)))
    onto = Grid((12, 14, 6), rotated((0.8, 0.7, 1.2), 0.0, (2, 3, 9)))
    inside = preprocess.field_of_view(source, onto)
    assert inside.mean() > 0.7
    centre = (slice(1, -1),) * 3  # half a voxel at the source's edge is extrapolated
    result = preprocess.resample(ramp(source), source, onto)
    np.testing.assert_allclose(result[centre][inside[centre]], ramp(onto)[centre][inside[centre]], atol=1e-3)


def test_outside_of_the_source_is_zero() -> None:
    source = Grid((4, 4, 4), np.eye(4))
    onto = Grid((8, 4, 4), rotated((1, 1, 1), 0, (-2, 0, 0)))
    result = preprocess.resample(np.ones((4, 4, 4), np.float32), source, onto)
    np.testing.assert_array_equal(result[:, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(preprocess.field_of_view(source, onto)[:, 0, 0], result[:, 0, 0] == 1)


def test_the_same_grid_is_left_untouched() -> None:
    data = head_scan()
    grid = Grid((24, 28, 16), rotated((1, 1, 3), 0.1, (1, 2, 3)))
    nearly = Grid(grid.shape, grid.affine + 1e-6)
    assert preprocess.resample(data, grid, nearly) is data
    assert not preprocess.same_grid(grid, Grid(grid.shape, rotated((1, 1, 3), 0.1, (1, 2, 3.01))))
    assert not preprocess.same_grid(grid, Grid((24, 28, 17), grid.affine))


def test_thick_slices_average_thin_ones() -> None:
    """White noise of SD 1 at 1 mm keeps, after a Gaussian of sigma s, SD (4 pi s^2)^(-1/4) per smoothed axis."""
    source = Grid((16, 16, 200), np.eye(4))
    onto = Grid((16, 16, 38), rotated((1, 1, 5), 0, (0, 0, 5)))
    noise = np.random.default_rng(0).normal(size=source.shape).astype(np.float32)
    sigma = np.sqrt(5**2 - 1) / 2.3548
    result = preprocess.resample(noise, source, onto)
    assert result.std() == pytest.approx((4 * np.pi * sigma**2) ** -0.25, rel=0.05)


@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.0), (0.7, 1.0, 3.0)])
def test_respacing_keeps_centre_and_extent(spacing_mm: tuple[float, float, float]) -> None:
    grid = Grid((20, 31, 12), rotated((1.5, 1.2, 5.0), 0.3, (-10, 4, 7)))
    new = preprocess.respaced(grid, spacing_mm)
    np.testing.assert_allclose(new.spacing_mm, spacing_mm)
    centres = [g.affine @ [*((np.array(g.shape) - 1) / 2), 1] for g in (grid, new)]
    np.testing.assert_allclose(*centres)
    extents = [np.array(g.shape) * g.spacing_mm for g in (grid, new)]
    assert (np.abs(extents[0] - extents[1]) <= np.array(spacing_mm) / 2 + 1e-9).all()


def test_respacing_to_the_own_spacing_changes_nothing() -> None:
    grid = Grid((20, 31, 12), rotated((1.5, 1.2, 5.0), 0.3, (-10, 4, 7)))
    assert preprocess.same_grid(preprocess.respaced(grid, grid.spacing_mm), grid)


def session_on_disk(folder: Path, *, t1_shift_mm: float = 0.0) -> Session:
    """Target PD with thick slices; T2 on the same grid; T1 thin, shifted along the head-foot axis."""
    thin = ball((24, 28, 48), 10)
    thick = thin.reshape(24, 28, 16, 3).mean(axis=3)
    noise = np.random.default_rng(0)
    scans = {
        "T1": (thin, rotated((1, 1, 1), 0, (0, 0, -1 + t1_shift_mm))),
        "T2": (thick, rotated((1, 1, 3), 0, (0, 0, 0))),
        "PD": (thick, rotated((1, 1, 3), 0, (0, 0, 0))),
    }
    paths = {}
    for gain, (modality, (image, affine)) in enumerate(scans.items(), start=1):
        paths[modality] = folder / f"{modality}.nii.gz"
        data = 100 * gain * image + noise.uniform(1, 5, image.shape)
        write_scan(paths[modality], data.astype(np.float32), affine=affine, descrip="")
    return Session("", paths)


def test_a_session_is_put_on_the_targets_grid(tmp_path: Path) -> None:
    session = session_on_disk(tmp_path)
    prepared = preprocess.prepare_session(
        session, scenario=Scenario(("T1", "T2"), "PD"), spacing_mm=None, subject_id="012"
    )
    assert prepared.volumes.shape == (16, 3, 28, 24)
    assert prepared.volumes.dtype == np.float32
    assert prepared.foreground.shape == (16, 28, 24)
    assert prepared.grid.shape == (24, 28, 16)
    assert prepared.volumes.min() >= 0
    assert prepared.volumes.max() <= 1
    t1, _, pd = prepared.volumes.transpose(1, 0, 2, 3)
    assert np.abs(t1 - pd)[prepared.foreground].mean() < 0.1  # the same ball, in spite of 3 times thinner slices
    assert pd[prepared.foreground].mean() > 0.7 > 0.1 > pd[~prepared.foreground].mean()


def test_a_session_can_be_resampled(tmp_path: Path) -> None:
    prepared = preprocess.prepare_session(
        session_on_disk(tmp_path), scenario=Scenario(("T1",), "PD"), spacing_mm=(2, 2, 6), subject_id="012"
    )
    assert prepared.volumes.shape == (8, 2, 14, 12)
    np.testing.assert_allclose(prepared.grid.spacing_mm, (2, 2, 6))
    assert prepared.foreground.sum() * 24 == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.2)  # 5 voxels across


def test_a_grid_that_is_too_coarse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"subject 012: no head is left of PD on a grid of \(1, 1, 1\)"):
        preprocess.prepare_session(
            session_on_disk(tmp_path), scenario=Scenario(("T1",), "PD"), spacing_mm=(50, 50, 50), subject_id="012"
        )


@pytest.mark.parametrize("axis", [0, 1])
def test_a_target_whose_slices_are_too_small_to_score_is_refused(axis: int) -> None:
    def cut_to(voxels: int) -> dict[str, Volume]:
        part = [slice(None)] * 3
        part[axis] = slice(6, 6 + voxels)
        return {"PD": Volume(head_scan()[tuple(part)], np.eye(4))}

    preprocess.align(cut_to(11), to="PD", spacing_mm=None, place="subject 012")
    with pytest.raises(DataError, match=r"subject 012: an axial slice of PD has .*10.* voxels; at least 11 x 11"):
        preprocess.align(cut_to(10), to="PD", spacing_mm=None, place="subject 012")


def test_a_source_elsewhere_is_doubted_or_refused_by_name(tmp_path: Path) -> None:
    scenario = Scenario(("T2", "T1"), "PD")
    prepared = preprocess.prepare_session(
        session_on_disk(tmp_path, t1_shift_mm=20), scenario=scenario, spacing_mm=None, subject_id="012"
    )
    cause = "it does not cover the whole head; where it is missing the model can only guess"
    assert [modality for modality, doubt in prepared.doubts if doubt.cause == cause] == ["T1"]
    whole = preprocess.prepare_session(session_on_disk(tmp_path), scenario=scenario, spacing_mm=None, subject_id="012")
    assert cause not in [doubt.cause for _, doubt in whole.doubts]
    session = session_on_disk(tmp_path, t1_shift_mm=30)
    with pytest.raises(DataError, match=r"subject 012: T1 covers \d+% of the head in PD; at least 50%"):
        preprocess.prepare_session(session, scenario=scenario, spacing_mm=None, subject_id="012")


def test_a_missing_modality_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"subject 012, session ses-1 has no FLAIR"):
        preprocess.prepare_session(
            Session("ses-1", session_on_disk(tmp_path).paths),
            scenario=Scenario(("FLAIR",), "PD"),
            spacing_mm=None,
            subject_id="012",
        )


def test_an_unscalable_scan_is_refused_by_name(tmp_path: Path) -> None:
    session = session_on_disk(tmp_path)
    data = np.full((24, 28, 16), 3, np.float32)
    data[0, 0, 0] = 4
    write_scan(session.paths["T2"], data, affine=np.eye(4), descrip="")
    with pytest.raises(DataError, match=r"subject 012, T2: nearly all"):
        preprocess.prepare_session(session, scenario=Scenario(("T2",), "PD"), spacing_mm=None, subject_id="012")
