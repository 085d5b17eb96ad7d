"""Group-wise rolling: each group's slice of the kernel is rolled and scaled by what the routing function sees.

Reconstructed from the text of Song et al. (arXiv 2411.14684); the routing function follows Adaptive Rotated Convolution
(Pu et al., ICCV 2023). For sample b and group g, with x~ the attended features of all groups:

    h    = mean over space of relu(LayerNorm(depthwise(x~)))
    lam  = 2 sigmoid(W_l h)                               scale, in (0, 2)
    d    = r softsign(W_o h)                              offset in taps per axis, in (-r, r)
    W'_g = lam_g (R(d_y) kron R(d_x)) W_g                 R: circulant; torch.roll where d is whole

W_l and W_o start at zero, so at the start lam = 1, d = 0 and W' = W. Both interpolations have a slope at
d = 0; a symmetric triangle, relu(1 - |u|), has none there and would never learn.
"""

from functools import reduce
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agi_core.models.cross_group_attention import mean_over_space
from agi_core.models.model_config import ModelConfig
from agi_core.models.resunet import AVERAGE_POOL, CONV, CONVOLVE, GroupNorm

TAPS = 3


def roll_matrix(offset: Tensor, *, taps: int, interpolation: str, circular: bool = True) -> Tensor:
    """Offsets (...) in taps -> matrices R (..., taps, taps) that roll a vector w by them: R @ w.

    linear: w rolled by floor(d) and by floor(d) + 1, mixed by the fraction. fourier: w's trigonometric interpolant,
    which keeps the norm (`taps` must be odd). Both equal torch.roll(w, d) at whole d. Without `circular`, which linear
    alone knows, a tap that leaves at one end is lost and a zero enters at the other.
    """
    taps_apart = torch.arange(taps, device=offset.device)[:, None] - torch.arange(taps, device=offset.device)
    if interpolation == "linear":
        floor = offset.detach().floor()
        fraction = (offset - floor)[..., None, None]
        rest = taps_apart - floor[..., None, None]
        rest = rest.remainder(taps) if circular else rest
        return (1 - fraction) * (rest == 0) + fraction * (rest == 1)
    frequency = torch.arange(1, taps // 2 + 1, dtype=offset.dtype, device=offset.device)
    phase = 2 * pi / taps * (taps_apart - offset[..., None, None])[..., None] * frequency
    return (1 + 2 * phase.cos().sum(-1)) / taps


def kronecker(a: Tensor, b: Tensor) -> Tensor:
    """(..., i, j), (..., k, l) -> (..., i k, j l)"""
    return torch.einsum("...ij,...kl->...ikjl", a, b).flatten(-4, -3).flatten(-2, -1)


def roll_kernel(kernel: Tensor, *, scale: Tensor, offset: Tensor, interpolation: str, circular: bool = True) -> Tensor:
    """One kernel per sample: each group's slice of `kernel` rolled by its offsets and multiplied by its scale.

    kernel (O, C, *taps), scale (B, G), offset (B, G, axes) in taps -> (B, O, C, *taps).
    """
    groups, taps = scale.shape[1], kernel.shape[2]
    per_axis = roll_matrix(offset, taps=taps, interpolation=interpolation, circular=circular)  # (B, G, axes, K, K)
    operator = scale[..., None, None] * reduce(kronecker, per_axis.unbind(2))  # (B, G, K^axes, K^axes)
    flat = kernel.reshape(len(kernel), groups, -1, operator.shape[-1])  # (O, G, C/G, K^axes)
    rolled = torch.einsum("bgst,ogct->bogcs", operator, flat)
    return rolled.reshape(-1, *kernel.shape)


class Routing(nn.Module):
    """The routing function: features of all groups -> scale and offset of each group."""

    def __init__(self, channels: int, *, groups: int, config: ModelConfig) -> None:
        super().__init__()
        self.dims, self.groups, self.max_offset, self.pool = config.dims, groups, config.max_offset, config.routing_pool
        self.depthwise = CONV[self.dims](channels, channels, TAPS, padding=1, groups=channels, bias=False)
        self.norm = GroupNorm(1, channels)
        self.scale = zeros_linear(channels, groups) if config.scaling else None
        self.offset = zeros_linear(channels, groups * self.dims) if config.shift != "none" else None

    def summarise(self, x: Tensor, attention: Tensor) -> Tensor:
        """h of some samples: x (b, C, *space), attention (b, C) -> (b, C) in the precision of the parameters.

        A factor per channel commutes with a depthwise convolution, so the attention multiplies its kernel, not x.
        """
        if self.pool > 1:
            x = AVERAGE_POOL[self.dims](x, self.pool, ceil_mode=True, count_include_pad=False)
        kernels = attention.reshape(*attention.shape, *[1] * (self.dims + 1)) * self.depthwise.weight
        together = x.reshape(1, -1, *x.shape[2:])
        y = CONVOLVE[self.dims](together, kernels.flatten(0, 1), padding=1, groups=together.shape[1]).reshape(x.shape)
        return mean_over_space(F.relu(self.norm(y)), dtype=self.norm.weight.dtype)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C) -> scale (B, G) in (0, 2), offset (B, G, axes) in taps, in (-max_offset, max_offset)"""
        scale, offset = h.new_ones(len(h), self.groups), h.new_zeros(len(h), self.groups, self.dims)
        if self.scale is not None:
            scale = 2 * torch.sigmoid(self.scale(h))
        if self.offset is not None:
            offset = self.max_offset * F.softsign(self.offset(h)).reshape(offset.shape)
        return scale, offset


def zeros_linear(features_in: int, features_out: int) -> nn.Linear:
    """A linear layer without bias, whose weights start at zero."""
    linear = nn.Linear(features_in, features_out, bias=False)
    nn.init.zeros_(linear.weight)
    return linear
