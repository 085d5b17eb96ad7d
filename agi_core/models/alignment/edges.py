"""The edges of an image: a description that two contrasts share, whichever side of an edge is the brighter one.

    E(x) = (gy^2 - gx^2, 2 gy gx) / (gy^2 + gx^2 + noise)         the direction of the gradient g, its angle doubled

E is a normalised gradient field (Haber and Modersitzki, MICCAI 2006). With the angle doubled, opposite gradients have
the same E, so two E can be subtracted. Of volumes, E describes the edges in the plane of the last two axes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE = 0.1
"""The noise in E, as a part of the mean squared gradient: edges far below it hardly count."""
FEWEST_VOXELS = 12
"""No axis is pooled to fewer voxels than this."""


def descriptor(image: Tensor) -> Tensor:
    """E of the module: (B, 1, *space) -> (B, 2, *space), of length 0 (a flat image) to 1 (a strong edge)."""
    gy, gx = (difference(image, axis=image.dim() + axis) for axis in (-2, -1))
    energy = gy.square() + gx.square()
    noise = NOISE * energy.mean(dim=list(range(1, energy.dim())), keepdim=True)
    return torch.cat([gy.square() - gx.square(), 2 * gy * gx], dim=1) / (energy + noise + 1e-12)


def difference(x: Tensor, *, axis: int) -> Tensor:
    """The voxel ahead minus the voxel behind along an axis: twice the slope. The end values are repeated outwards."""
    padding = [int(other == axis) for other in reversed(range(2, x.dim())) for _ in range(2)]
    padded = F.pad(x, padding, mode="replicate")
    return padded.narrow(axis, 2, x.shape[axis]) - padded.narrow(axis, 0, x.shape[axis])


def pooled(image: Tensor, stride: int) -> Tensor:
    """(B, 1, *space) averaged over `stride` voxels along each axis, or over as many as leave `FEWEST_VOXELS`."""
    strides = (next((s for s in (stride, 4, 2) if s <= stride and n >= FEWEST_VOXELS * s), 1) for n in image.shape[2:])
    size = [n // s for n, s in zip(image.shape[2:], strides, strict=True)]
    return image if size == list(image.shape[2:]) else F.interpolate(image, size=size, mode="area")
