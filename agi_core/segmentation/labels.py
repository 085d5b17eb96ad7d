"""The parts of a tumour in a segmentation file of BraTS, whatever its year."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agi_core.data.header import Grid
from agi_core.data.intensity import BoolArray
from agi_core.data.nifti import read_grid, read_volume
from agi_core.data.preprocess import same_grid
from agi_core.errors import DataError

Labels = NDArray[np.uint8]

NECROSIS, OEDEMA, ENHANCING = 1, 2, 3
_ENHANCING_UNTIL_2022 = 4
_ROUNDED = 1e-3  # of a label that is stored with a slope, or as a float
TARGETS: Mapping[str, tuple[int, ...]] = {
    "WT": (NECROSIS, OEDEMA, ENHANCING),
    "TC": (NECROSIS, ENHANCING),
    "ET": (ENHANCING,),
}
"""What is segmented: whole tumour, tumour core, enhancing tumour."""


def read_labels(path: Path, *, grid: Grid, like: Path) -> Labels:
    """A segmentation (I, J, K) in RAS+ order: 0, `NECROSIS`, `OEDEMA` or `ENHANCING`; a class may be empty.

    Enhancing tumour is 3 in files of 2023, and 4 in files of 2017 to 2022.

    Args:
        grid: that of the scan `like`, which it must have.

    Raises:
        DataError: the file cannot be read, lies on another grid, or holds other labels or both of 3 and 4.
    """
    labels = _stored(path, grid=grid, like=like)
    labels[labels == _ENHANCING_UNTIL_2022] = ENHANCING
    return labels


def check_labels(segs: Mapping[Path, Path]) -> list[str]:
    """Before long work: read all of these segmentations, each with the scan whose grid it must have. A note, where some
    have 3 and others 4.

    Raises:
        DataError: for the first one that `read_labels` would refuse, with the names of all others.
    """
    faults: dict[Path, DataError] = {}
    having: dict[int, list[Path]] = {ENHANCING: [], _ENHANCING_UNTIL_2022: []}
    for path, like in segs.items():
        try:
            labels = _stored(path, grid=read_grid(like), like=like)
        except DataError as error:
            faults[path] = error
            continue
        for label, paths in having.items():
            paths += [path] if (labels == label).any() else []
    if faults:
        first, *others = faults
        more = f" Neither can these be used: {', '.join(map(str, others))}." if others else ""
        raise DataError(f"{faults[first]}{more}")
    if not all(having.values()):
        return []
    several = " and ".join(f"{label} in {len(paths)} ({paths[0].name})" for label, paths in having.items())
    return [f"enhancing tumour is {several} of the segmentations; since 2024 label 4 is a resection cavity"]


def _stored(path: Path, *, grid: Grid, like: Path) -> Labels:
    """The labels as they are in the file; see `read_labels`."""
    volume = read_volume(path, constant=True)
    if not same_grid(volume.grid, grid):
        raise DataError(
            f"{path} lies on another grid ({_said(volume.grid)}) than {like} ({_said(grid)})."
            " Labels are not interpolated here: resample the segmentation to that scan with nearest neighbour."
        )
    whole = np.rint(volume.data)
    labels = np.where(np.abs(volume.data - whole) <= _ROUNDED, whole, volume.data)
    found = {float(label) for label in np.unique(labels)}
    if unknown := sorted(found - {0, NECROSIS, OEDEMA, ENHANCING, _ENHANCING_UNTIL_2022}):
        raise DataError(
            f"{path} holds the label {unknown[0]:.9g}; a tumour has 1 (necrosis), 2 (oedema) and 3 or 4 (enhancing)."
            " Check that it is a segmentation of BraTS, 2017 to 2023."
        )
    if {ENHANCING, _ENHANCING_UNTIL_2022} <= found:
        raise DataError(
            f"{path} holds both of the labels 3 and 4, one of which was enhancing tumour until 2022 and the other is"
            " since 2023. Write one of them, or set the resection cavity (4 since 2024) to 0."
        )
    return labels.astype(np.uint8)


def target_mask(labels: Labels, target: str) -> BoolArray:
    """Where one of `TARGETS` is."""
    return np.isin(labels, TARGETS[target])


def _said(grid: Grid) -> str:
    """Shape, spacing, and the place of the first voxel in RAS+."""
    shape, spacing_mm, place_mm = grid.shape, grid.spacing_mm, grid.affine[:3, 3]
    return f"{_listed(shape)} voxels of {_listed(spacing_mm)} mm from {', '.join(f'{mm:.4g}' for mm in place_mm)} mm on"


def _listed(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
