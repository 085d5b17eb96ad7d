"""Registration recovers offsets that were put in by hand, on two contrasts of one head."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from agi_core.data.header import Affine
from agi_core.data.nifti import Volume, write_scan
from agi_core.data.preparation import Preparation
from agi_core.data.registration import register, register_sources
from agi_core.data.scans import Session, Subject
from agi_core.errors import ConfigError, DataError
from agi_core.scenario import Scenario

SPACING_MM = (3.0, 3.5, 5.0)
SHAPE = (56, 56, 24)


def grid_affine() -> Affine:
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = -np.array(SPACING_MM) * (np.array(SHAPE) - 1) / 2
    return affine


def rigid(shift_mm: tuple[float, float, float], angle_deg: tuple[float, float, float]) -> Affine:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(angle_deg, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def head(contrast: float, pose: Affine) -> Volume:
    """Smooth tissues in an ellipsoid, whose brightness depends on the contrast, scanned in a pose."""
    affine = grid_affine()
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    points = (index @ affine[:3, :3].T + affine[:3, 3] - pose[:3, 3]) @ pose[:3, :3]  # back to the head's own mm
    tissue = np.random.default_rng(0).standard_normal((40, 40, 40))
    tissue = ndimage.gaussian_filter(tissue, 1.5, mode="wrap")
    values = ndimage.map_coordinates(tissue / tissue.std(), (points / 6 + 20).transpose(3, 0, 1, 2), mode="wrap")
    inside = 1 / (1 + np.exp(((points / [65, 80, 55]) ** 2).sum(axis=-1) * 20 - 20))
    noise = np.random.default_rng(int(contrast * 10)).normal(0, 0.02, SHAPE)
    return Volume(np.asarray(inside * (1.5 + np.sin(contrast * values)) + noise, np.float32), affine)


@pytest.mark.parametrize(
    ("shift_mm", "angle_deg"), [((6.0, -4.0, 5.0), (0, 0, 0)), ((-3.0, 5.0, 2.0), (3.0, -2.0, 4.0))]
)
def test_a_known_offset_is_recovered(
    shift_mm: tuple[float, float, float], angle_deg: tuple[float, float, float]
) -> None:
    pytest.importorskip("SimpleITK")
    pose = rigid(shift_mm, angle_deg)
    fixed, moving = head(1.0, np.eye(4)), head(1.8, pose)
    laid = register(moving, fixed, place="subject 1")
    assert laid.data is moving.data
    corners = np.array([[x, y, z, 1] for x in (-60, 60) for y in (-70, 70) for z in (-45, 45)], dtype=np.float64).T
    recovered = laid.affine @ np.linalg.inv(moving.affine) @ pose  # identity when perfect
    error_mm = np.linalg.norm((recovered @ corners - corners)[:3], axis=0)
    assert error_mm.mean() < 0.5
    again = register(moving, fixed, place="subject 1")
    np.testing.assert_allclose(again.affine, laid.affine, atol=1e-4)


def test_values_that_are_not_believed_do_not_count() -> None:
    """A hot voxel in each scan would fill one bin of 32 with the whole head."""
    pytest.importorskip("SimpleITK")
    fixed, moving = head(1.0, np.eye(4)), head(1.8, rigid((6.0, -4.0, 5.0), (0, 0, 0)))
    laid = register(moving, fixed, place="subject 1")
    for volume in (fixed, moving):
        volume.data[30, 20, 12] = 32767
    hot = register(moving, fixed, place="subject 1")
    assert hot.data.max() == 32767  # only the search does not see it
    np.testing.assert_allclose(hot.affine, laid.affine, atol=0.5)


def test_the_reference_stays() -> None:
    pytest.importorskip("SimpleITK")
    volumes = {"T1": head(1.8, rigid((4, 0, 0), (0, 0, 0))), "T2": head(1.0, np.eye(4))}
    laid = register_sources(volumes, to="T2", place="subject 1")
    assert list(laid) == ["T1", "T2"]
    assert laid["T2"] is volumes["T2"]
    assert laid["T1"].affine[0, 3] - volumes["T1"].affine[0, 3] == pytest.approx(-4, abs=0.5)


def test_the_cache_holds_registered_sources_apart(tmp_path: Path) -> None:
    pytest.importorskip("SimpleITK")
    scenario = Scenario(("T1", "T2"), "PD")
    scans = {"T1": head(1.8, rigid((9, 0, 0), (0, 0, 0))), "T2": head(1.0, np.eye(4)), "PD": head(1.5, np.eye(4))}
    paths = {modality: tmp_path / "data" / f"IXI001-HH-{modality}.nii.gz" for modality in scans}
    (tmp_path / "data").mkdir()
    for modality, volume in scans.items():
        write_scan(paths[modality], (1000 * volume.data).astype(np.int16), affine=volume.affine, descrip="")

    def images(register_to: str | None) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        preparation = Preparation(
            scenario=scenario,
            spacing_mm=None,
            cache_dir=tmp_path / "cache",
            whole=True,
            register_to=register_to,
        )
        (entry,) = preparation.open([Subject("IXI001", "HH", (Session("", paths),))])
        return entry.read_slice(12)[0]

    native, registered = images(None), images("T2")
    np.testing.assert_array_equal(registered[1:], native[1:])
    back = np.roll(native[0], -3, axis=1)  # 9 mm are 3 voxels
    inside = np.s_[10:-10, 10:-10]
    assert np.abs(registered[0] - back)[inside].mean() < 0.2 * np.abs(native[0] - back)[inside].mean()


def test_scans_that_do_not_meet_are_refused_by_name() -> None:
    pytest.importorskip("SimpleITK")
    volume = head(1.0, np.eye(4))
    with pytest.raises(DataError, match=r"subject 7, T1 cannot be registered .*leave the subject out"):
        register(Volume(volume.data, rigid((900, 0, 0), (0, 0, 0)) @ volume.affine), volume, place="subject 7, T1")


def test_without_simpleitk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)  # what an import finds where it is not installed
    volume = head(1.0, np.eye(4))
    with pytest.raises(ConfigError, match=r"SimpleITK.*\[register\].*register: none"):
        register(volume, volume, place="subject 7")
