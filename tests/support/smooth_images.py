"""Smooth images with edges in every direction, drawn from a seed."""

import torch
import torch.nn.functional as F
from torch import Tensor


def texture(*space: int, seed: int = 0, detail: int = 6) -> Tensor:
    """A smooth image (1, 1, *space) in (0, 1), float64; `detail`: voxels from knot to knot."""
    generator = torch.Generator().manual_seed(seed)
    knots = torch.randn(1, 1, *[max(n // detail, 1) for n in space], dtype=torch.float64, generator=generator)
    return torch.sigmoid(2 * F.interpolate(knots, size=space, mode="bilinear" if len(space) == 2 else "trilinear"))
