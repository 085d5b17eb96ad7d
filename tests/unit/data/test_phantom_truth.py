"""Offsets from recorded poses, against the poses themselves."""

from pathlib import Path

import numpy as np
import pytest

from agi_core.data.header import Grid
from agi_core.data.phantom.anatomy import Pose
from agi_core.data.phantom.truth import read_anatomies, read_poses, true_offset_mm
from agi_core.data.scans import Scans

GRID = Grid((24, 20, 8), np.array([[1.5, 0, 0, -20], [0, 1.75, 0, -30], [0, 0, 5, -10], [0, 0, 0, 1]]))
NAMES = ("rx_deg", "ry_deg", "rz_deg", "tx_mm", "ty_mm", "tz_mm")
T1 = (3.0, -2.0, 4.0, 1.5, -0.5, 2.5)
T2 = (-1.0, 0.5, 2.0, 0.0, 2.0, -1.0)


def write(data_dir: Path) -> None:
    header = ["subject", *(f"{scan}_{name}" for scan in ("T1", "T2PD") for name in NAMES)]
    lines: list[list[object]] = [[*header], ["IXI700-Guys-1000", *T2, *T1], ["IXI701-HH-1000", *T1, *T2]]
    (data_dir / "truth.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))


def test_scans_show_the_same_place_of_the_head_at_the_offset(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "phantom.json").write_text("{}")
    poses = read_poses(tmp_path, "IXI701")
    offset_mm = true_offset_mm(source=poses["T1"], reference=poses["T2"], grid=GRID, k=3)
    assert offset_mm.shape == (3, 20, 24)
    i, j, k = np.broadcast_arrays(np.arange(24), np.arange(20)[:, None], 3)
    needed = np.stack([-20 + 1.5 * i, -30 + 1.75 * j, -10 + 5.0 * k])
    found = needed + offset_mm[::-1]
    in_head_by_t2 = Pose(T2[:3], T2[3:]).apply(needed.astype(np.float32))
    in_head_by_t1 = Pose(T1[:3], T1[3:]).apply(found.astype(np.float32))
    np.testing.assert_allclose(in_head_by_t1, in_head_by_t2, atol=1e-4)
    np.testing.assert_array_equal(poses["PD"], poses["T2"])
    assert read_poses(tmp_path, "IXI999") == {}


def test_other_folders_have_no_poses_that_we_could_read(tmp_path: Path) -> None:
    assert read_poses(tmp_path, "IXI701") == {}
    assert read_anatomies(Scans(tmp_path, "ixi")) == {}
    write(tmp_path)  # another program's table may mean something else
    assert read_poses(tmp_path, "IXI701") == {}


@pytest.mark.parametrize(
    ("layout", "name", "subject"),
    [("ixi", "IXI700-Guys-1000", "IXI700"), ("brats", "BraTS-GLI-90001-000", "BraTS-GLI-90001")],
)
def test_an_anatomy_is_known_by_the_name_that_the_subject_has_in_a_run(
    tmp_path: Path, layout: str, name: str, subject: str
) -> None:
    (tmp_path / "truth.csv").write_text(f"subject,site,anatomy\n{name},Guys,ms07\n")
    (tmp_path / "phantom.json").write_text("{}")
    assert read_anatomies(Scans(tmp_path, layout)) == {subject: "ms07"}
