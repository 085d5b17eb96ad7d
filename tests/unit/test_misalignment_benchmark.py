"""What the misalignment benchmark takes as true, and its intervals, against independent computations."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.stats import ttest_1samp

from agi_core.data.header import Grid
from agi_core.data.misalignment import Move, field
from agi_core.data.nifti import read_volume
from benchmarks.federated_misalignment import configuration as federated
from benchmarks.federated_misalignment import move_hospitals
from benchmarks.misalignment import fingerprint
from benchmarks.misalignment_report import interval, tables
from benchmarks.misalignment_setup import TESTS, Setup, configuration
from benchmarks.misalignment_truth import offset_errors, read_poses, true_offsets
from benchmarks.misalignment_variants import SETS, VARIANTS

GRID = Grid((24, 20, 8), np.diag([1.5, 1.75, 5.0, 1.0]))
MOVE = Move(shift_mm=(3.0, -1.75, 2.0), angle_deg=(1.0, 2.0, 4.0), scale=1.03)


def test_true_offsets_are_the_inverse_of_the_field_that_moved() -> None:
    """An offset leads from p to another voxel; the field there leads back to p."""
    back = true_offsets(MOVE, np.eye(4), GRID)
    there = np.indices((8, 20, 24)) + back
    way = np.stack([map_coordinates(part, there, order=1) for part in field(MOVE, (8, 20, 24), GRID.spacing_mm)])
    inside = np.s_[:, 3:-3, 6:-6, 6:-6]  # nearer the border an offset leads out of the field
    np.testing.assert_allclose((back + way)[inside], 0, atol=1e-4)


def test_poses_come_from_the_table_and_add_to_the_move(tmp_path: Path) -> None:
    columns = [
        f"{scan}_{c}" for scan in ("T1", "T2PD") for c in ("rx_deg", "ry_deg", "rz_deg", "tx_mm", "ty_mm", "tz_mm")
    ]
    values = [0, 0, 0, 1.5, 0, 0, 0, 0, 0, 0, 3.5, 0]
    path = tmp_path / "truth.csv"
    path.write_text(f"subject,{','.join(columns)}\nIXI7-HH-1,{','.join(map(str, values))}\n")
    poses = read_poses(path)
    offsets = true_offsets(Move(shift_mm=(3.0, 0, 0)), poses["IXI7"], GRID)
    expected = np.array([0, 2, 1])[:, None, None, None] * np.ones((1, 8, 20, 24))
    np.testing.assert_allclose(offsets, expected, atol=1e-9)
    found = (expected[1:] + np.array([3, 4])[:, None, None, None]).transpose(1, 0, 2, 3).astype(np.float32)
    errors = offset_errors(found, offsets, head=np.ones((8, 20, 24), bool), spacing_mm=(1.5, 1.75, 5.0))
    assert errors == pytest.approx({"offset_error_px": 5, "offset_error_mm": np.hypot(3 * 1.75, 4 * 1.5)})
    assert read_poses(tmp_path / "nowhere.csv") == {}


def test_one_seed_is_the_t_test_over_subjects() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, (1, 8))
    test = ttest_1samp(values[0], 0)
    mean, half, p = interval(values)
    low, high = test.confidence_interval(0.95)
    assert (mean - half, mean + half, p) == pytest.approx((low, high, test.pvalue))


def test_intervals_cover_what_they_should() -> None:
    """Seeds and subjects both shift a value: at least 95 % of the intervals must hold the true mean, 0."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        values = rng.normal(0, 1, (5, 1)) + rng.normal(0, 1, (1, 8)) + rng.normal(0, 1, (5, 8))
        mean, half, _ = interval(values)
        held += abs(mean) <= half
    assert held >= 940


def test_the_table_pairs_differences_and_leaves_out_what_is_unfinished() -> None:
    def result(psnr_db: list[float], step_cpu_s: float) -> dict[str, object]:
        rows = {f"s{n}": {"psnr_db": value, "ssim": 0.9, "mae": 0.05} for n, value in enumerate(psnr_db)}
        return {"scores": {"still": rows}, "step_cpu_s": step_cpu_s}

    results = {
        ("plain", 0): result([20, 24], 1.0),
        ("plain", 1): result([21, 25], 1.0),
        ("affine", 0): result([21, 25], 1.5),
        ("affine", 1): result([22, 26], 1.5),
        ("late", 0): result([30, 30], 1.0),
    }
    names = ["plain", "affine", "late"]
    text = tables(results, names, [0, 1], main=dict.fromkeys(names, "still"), tests=["still"])
    assert "| affine | still | 23.50 ±" in text
    assert "| +1.00 ± 0.00 |" in text
    assert "| 1.50 |" in text
    assert "late" not in text


def test_variants_differ_in_their_settings_or_their_data_and_tests_in_their_names(tmp_path: Path) -> None:
    setup = Setup(tmp_path, None, None, "ixi", "T1,T2:PD", "T2", "T1", False, 300, tmp_path, ())
    assert len({fingerprint(setup, name, 0) for name in VARIANTS}) == len(VARIANTS)
    assert fingerprint(setup, "plain", 0) != fingerprint(setup, "plain", 1)
    assert set().union(*SETS.values()) == set(VARIANTS)
    assert len(set(map(str, TESTS))) == len(TESTS)
    moved = configuration(setup, "plain", 0).training.misalign
    assert (moved.source, moved.kind, moved.size) == ("T1", "translation", 6)
    assert configuration(setup, "trained still, plain", 0).training.misalign.source is None


def test_hospitals_keep_their_own_misalignment(ixi_dir: Path, tmp_path: Path) -> None:
    """Guys' scans are the originals; elsewhere T1, and T1 alone, is another image."""
    setup = Setup(ixi_dir, None, None, "ixi", "T1,T2:PD", "T2", "T1", False, 1, tmp_path, ())
    moved = move_hospitals(setup, tmp_path / "moved")
    paths = sorted(path.relative_to(moved) for path in moved.rglob("*.nii.gz"))
    assert {path.name.split("-")[1] for path in paths} == {"Guys", "HH", "IOP"}
    for path in paths:
        same = np.array_equal(read_volume(moved / path).data, read_volume(ixi_dir / path).data)
        assert same == ("-T1." not in path.name or "-Guys-" in path.name)
    still = federated("aligned", 0, data_dir=moved)
    assert (still.clients, still.training.misalign.source, still.model.alignment) == (3, None, "dense")
