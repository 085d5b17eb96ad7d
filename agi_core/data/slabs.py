"""What a network is shown of a volume: the box that holds it, and each slice with its neighbours."""

import numpy as np
from numpy.typing import NDArray

SliceBox = tuple[slice, slice]
"""Rows and columns of a slice."""


def source_box(sources: NDArray[np.floating]) -> SliceBox:
    """The smallest in-plane box with every non-zero voxel of the sources (D, M, H, W); everything if there is none."""
    occupied = (sources != 0).any(axis=(0, 1))
    if not occupied.any():
        return slice(0, occupied.shape[0]), slice(0, occupied.shape[1])
    rows, columns = np.flatnonzero(occupied.any(axis=1)), np.flatnonzero(occupied.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def around(k: int, *, depth: int, neighbours: int) -> list[int]:
    """Numbers of slice `k` of `depth` and its neighbours on either side, mirrored at the ends.

    Mirrored, not repeated: the alignment then sees no slope through an end slice and moves it in its plane alone. A
    repeated slice would halve the slope and send it off by slices.
    """
    last = depth - 1
    return [max(last - abs(last - abs(j)), 0) for j in range(k - neighbours, k + neighbours + 1)]
