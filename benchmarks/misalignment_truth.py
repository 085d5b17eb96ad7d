"""Where the moved source really is: the subject's own motion, known for synthetic scans, and the move on top of it.

Offsets are those of `agi_core.models.alignment.group_alignment`: `aligned(p) = source(p + offset(p))`, in voxels.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from agi_core.data.header import Grid
from agi_core.data.misalignment import Move

FloatArray = npt.NDArray[np.float64]


def read_poses(path: Path) -> dict[str, FloatArray]:
    """{subject: where the anatomy at a point of the scan of T2 and PD is in the scan of T1, 4 x 4 in mm}; empty
    without the file.

    Columns: `T1_rx_deg` ... `T1_tz_mm` and `T2PD_rx_deg` ...; rotations about the scanner's axes x, y, z, in turn.
    """
    if not path.is_file():
        return {}

    def pose(row: Mapping[str, str], scan: str) -> FloatArray:
        matrix = np.eye(4)
        angles_deg = [float(row[f"{scan}_r{axis}_deg"]) for axis in "xyz"]
        matrix[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
        matrix[:3, 3] = [float(row[f"{scan}_t{axis}_mm"]) for axis in "xyz"]
        return matrix

    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {row["subject"].split("-")[0]: pose(row, "T2PD") @ np.linalg.inv(pose(row, "T1")) for row in rows}


def true_offsets(move: Move, pose: FloatArray, grid: Grid) -> FloatArray:
    """(3, D, H, W): what undoes the subject's own motion and then the move, which is not elastic."""
    assert not move.elastic_rms_mm
    centre_mm = grid.affine[:3] @ np.append((np.array(grid.shape) - 1) / 2, 1.0)
    moved = np.eye(4)
    moved[:3, :3] = move.scale * Rotation.from_rotvec(move.angle_deg, degrees=True).as_matrix()
    moved[:3, 3] = centre_mm + move.shift_mm - moved[:3, :3] @ centre_mm
    to_source = np.linalg.inv(grid.affine) @ moved @ pose @ grid.affine  # voxel (i, j, k) -> voxel
    k, j, i = np.indices(grid.shape[::-1])
    voxels = np.stack([i, j, k, np.ones_like(i)])
    offsets: FloatArray = (np.tensordot(to_source, voxels, axes=1) - voxels)[2::-1]
    return offsets


def offset_errors(
    found: npt.NDArray[np.float32],
    true: FloatArray,
    *,
    head: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> dict[str, float]:
    """Median over the head (D, H, W) of how far in-plane offsets (D, 2, H, W) are from the true ones (3, D, H, W)."""
    rows, columns = found.transpose(1, 0, 2, 3)[:, head] - true[1:, head]
    return {
        "offset_error_px": float(np.median(np.hypot(rows, columns))),
        "offset_error_mm": float(np.median(np.hypot(rows * spacing_mm[1], columns * spacing_mm[0]))),
    }
