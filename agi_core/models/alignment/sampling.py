"""Positions in an image, and the image read at positions.

Positions and motions are in torch's normalised coordinates: an image spans (-1, 1) along each axis, at any scale. They
have one component per axis, in the order of the axes; `N` is the number of spatial axes, 2 or 3.

A slab is a slice with its neighbours, (B, C, S, H, W) with S = 2 neighbours + 1. Only the middle slice is aligned; the
others show what lies on either side of it. With 0 neighbours an image is a whole slice or volume.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def lattice(space: Sequence[int], *, like: Tensor) -> Tensor:
    """The position of each voxel: (N, *space)"""
    axes = [(2 * torch.arange(n, dtype=like.dtype, device=like.device) + 1) / n - 1 for n in space]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def vector(numbers: Sequence[float], *, like: Tensor) -> Tensor:
    """Numbers as a tensor (n) where `like` is. They are written there one by one: a GPU would wait for a copy."""
    return torch.stack([like.new_full((), number) for number in numbers])


def voxels_per_unit(space: Sequence[int], *, like: Tensor) -> Tensor:
    """The factor that turns a motion (B, N, *space), such as `like`, into voxels of an image of `space`: (N, 1, ...)"""
    return vector(space, like=like).reshape(-1, *[1] * (like.dim() - 2)) / 2


def sample(image: Tensor, position: Tensor) -> Tensor:
    """Read an image (B, C, *space) at positions (B, N, *out) -> (B, C, *out), by linear interpolation.

    Beyond the border the image has the border's value.
    """
    grid = position.flip(1).movedim(1, -1).to(image.dtype)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def middle(x: Tensor, neighbours: int) -> Tensor:
    """The middle slice of slabs: (B, C, S, H, W) -> (B, C, 1, H, W). Without neighbours x itself."""
    return x.narrow(2, neighbours, 1) if neighbours else x


def inside(position: Tensor, neighbours: int) -> Tensor:
    """Which positions (B, N, *space) lie within the image: bool (B, 1, *space). A slab has no end along its slices."""
    axes = position[:, 1:] if neighbours else position
    return (axes.abs() <= 1).all(dim=1, keepdim=True)
