"""What a network is shown of a volume: the box that holds it, and each slice with its neighbours."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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


def slabs(volume: Tensor, *, neighbours: int) -> Tensor:
    """Every slice with those `around` it: (D, M, H, W) -> (D, M, 2n + 1, H, W); without neighbours the volume."""
    if not neighbours:
        return volume
    numbers = torch.tensor([around(k, depth=len(volume), neighbours=neighbours) for k in range(len(volume))])
    return volume[numbers].transpose(1, 2)


def middle(sources: Tensor) -> Tensor:
    """The slices that a prediction is of: the middle ones of slabs (B, M, 2n + 1, H, W), all of (B, M, H, W)."""
    return sources[:, :, sources.shape[2] // 2] if sources.dim() == 5 else sources
