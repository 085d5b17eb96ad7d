"""What the built-in data knows of its subjects, from the `truth.csv` beside them: true poses, and whose brain it is."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agi_core.data.header import Grid
from agi_core.data.phantom.anatomy import HEAD_CENTRE_MM, rotation_matrix
from agi_core.data.phantom.tree import MARKER_NAME, TRUTH_NAME
from agi_core.data.scans import Scans
from agi_core.layouts import LAYOUTS

Array = NDArray[np.float64]

_COLUMNS = (("rx_deg", "ry_deg", "rz_deg"), ("tx_mm", "ty_mm", "tz_mm"))


def read_poses(data_dir: Path, subject_id: str) -> dict[str, Array]:
    """{"T1", "T2", "PD": scanner -> resting head, 4 x 4 in mm} of a subject; empty unless the folder is built-in data
    with poses."""
    row = next((row for row in _rows(data_dir) if row["subject"].split("-")[0] == subject_id), None)
    return {name: _pose(row, scan) for name, scan in (("T1", "T1"), ("T2", "T2PD"), ("PD", "T2PD"))} if row else {}


def read_anatomies(scans: Scans) -> dict[str, str]:
    """{subject: its anatomy}; empty unless the folder is built-in data."""
    visit = LAYOUTS[scans.layout].visit
    names = {row["subject"]: row["anatomy"] for row in _rows(scans.dir)}
    return {match["subject"]: anatomy for name, anatomy in names.items() if (match := visit.fullmatch(name))}


def true_offset_mm(*, source: Array, reference: Array, grid: Grid, k: int) -> Array:
    """The offsets in slice k that bring a scan in the pose `source` onto one in the pose `reference`, both on `grid`.

    (3, H, W) along the axes superior, anterior, right of the grid: `aligned(p) = source(p + offset(p))`.
    """
    to_source = np.linalg.inv(grid.affine) @ np.linalg.inv(source) @ reference @ grid.affine  # voxel -> voxel
    i, j = np.meshgrid(np.arange(grid.shape[0]), np.arange(grid.shape[1]))  # (H, W) each
    voxels = np.stack([i, j, np.full_like(i, k), np.ones_like(i)])
    offset = (np.tensordot(to_source, voxels, axes=1) - voxels)[:3]
    result: Array = (offset * np.array(grid.spacing_mm)[:, None, None])[::-1]
    return result


def _rows(data_dir: Path) -> list[dict[str, str]]:
    path = data_dir / TRUTH_NAME
    if not (path.is_file() and (data_dir / MARKER_NAME).is_file()):
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _pose(row: Mapping[str, str], scan: str) -> Array:
    """`Pose` of a row as a matrix: a rotation about the head's centre, then a shift."""
    angles_deg, shift_mm = (np.array([float(row[f"{scan}_{name}"]) for name in names]) for names in _COLUMNS)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(angles_deg)
    matrix[:3, 3] = HEAD_CENTRE_MM + shift_mm - matrix[:3, :3] @ HEAD_CENTRE_MM
    return matrix
