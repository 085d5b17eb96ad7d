"""ResUNet: residual blocks, average pooling, nearest-neighbour upsampling and skip connections, in 2-D and 3-D.

The 3-tap convolutions are made by the caller, so that the plain network and AGI-Net differ in nothing else. GroupNorm
normalises each sample by itself, as federated averaging and private training need; BatchNorm mixes samples and sites.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agi_core.models.model_config import ModelConfig
from agi_core.models.prior import Prior, monomials

ConvFactory = Callable[[int, int], nn.Module]
"""(channels in, channels out) -> a bias-free convolution of 3 taps per axis that keeps the spatial size."""

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
CONVOLVE = {2: F.conv2d, 3: F.conv3d}


def average_pool_3d(x: Tensor, size: int, *, ceil_mode: bool = False, count_include_pad: bool = True) -> Tensor:
    """`F.avg_pool3d` of (B, C, D, H, W): the gradient of that is not deterministic on a GPU."""
    how = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    if not (x.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return F.avg_pool3d(x, size, **how)
    return average_pool_by_planes(x, size, **how)


def average_pool_by_planes(x: Tensor, size: int, **how: bool) -> Tensor:
    """The same, as a mean within planes and then across them."""
    planes = F.avg_pool2d(x.flatten(0, 1), size, **how)
    columns = F.avg_pool2d(planes.flatten(2)[:, None], (size, 1), **how)
    return columns.reshape(*x.shape[:2], -1, *planes.shape[2:])


AVERAGE_POOL: Mapping[int, Callable[..., Tensor]] = {2: F.avg_pool2d, 3: average_pool_3d}


def to_channels_last(x: Tensor) -> Tensor:
    """x (B, C, *space) with its channels next to each other in memory. Unlike `contiguous`, it works under vmap too."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` whose result has the precision of its input. A GPU's autocast widens both to float32, which is
    twice the traffic; mean and variance are summed in float32 all the same."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *space) -> (B, C, *space)"""
        if x.dtype != torch.bfloat16:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class ResBlock(nn.Module):
    """y = act(norm(conv(act(norm(conv(x))))) + skip(x)); the skip is a 1-tap convolution where the width changes.

    With `adapters` channels the sum has a third term, up(act(down(x))): two 1-tap convolutions, of which the second
    starts at zero. A trained block can be tuned by these few weights (Houlsby et al., ICML 2019; there in series).
    """

    def __init__(self, channels_in: int, channels_out: int, *, dims: int, conv: ConvFactory, adapters: int) -> None:
        super().__init__()
        self.conv1 = conv(channels_in, channels_out)
        self.norm1 = GroupNorm(gcd(8, channels_out), channels_out)
        self.conv2 = conv(channels_out, channels_out)
        self.norm2 = GroupNorm(gcd(8, channels_out), channels_out)
        changes_width = channels_in != channels_out
        self.skip = CONV[dims](channels_in, channels_out, 1, bias=False) if changes_width else nn.Identity()
        self.adapter: nn.Sequential | None = None
        if adapters:
            up = CONV[dims](adapters, channels_out, 1, bias=False)
            nn.init.zeros_(up.weight)
            self.adapter = nn.Sequential(CONV[dims](channels_in, adapters, 1), nn.LeakyReLU(0.1), up)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *space) -> (B, C_out, *space)"""
        y = F.leaky_relu(self.norm1(self.conv1(x)), 0.1)
        y = self.norm2(self.conv2(y)) + self.skip(x)
        if self.adapter is not None:
            y = y + self.adapter(x)
        return F.leaky_relu(y, 0.1)


class ResUNet(nn.Module):
    """Sources (B, M, *space) in [0, 1] -> target (B, 1, *space), unbounded.

    `alignment` maps the sources to sources before anything mixes them. With a stem, each source then gets channels from
    a convolution of its own. Every spatial size is a multiple of `spatial_multiple(config)`. Activations are kept in
    channels-last order, which is faster on CPUs and GPUs alike.

    The last layer is linear: prediction = readout . features. With a prior, the features are the monomials of the
    aligned sources and the channels of the last block, whose weights start at zero. Without, a 1 and these channels.
    """

    def __init__(
        self, config: ModelConfig, *, sources: int, encoder: ConvFactory, decoder: ConvFactory, alignment: nn.Module
    ) -> None:
        super().__init__()
        self.dims = config.dims
        self.alignment = alignment
        self.stem = nn.Sequential()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        block = partial(ResBlock, dims=config.dims, adapters=config.adapters)
        channels = sources
        if config.stem:
            channels = sources * config.stem
            self.stem.append(CONV[self.dims](sources, channels, 3, padding=1, groups=sources, bias=False))
            self.stem.append(GroupNorm(sources, channels))
            self.stem.append(nn.LeakyReLU(0.1))
        for width in config.widths:
            self.encoder.append(block(channels, width, conv=encoder))
            channels = width
        for width in reversed(config.widths[:-1]):
            self.decoder.append(block(channels + width, width, conv=decoder))
            channels = width
        self.head = CONV[self.dims](channels, 1, 1)
        self.prior = Prior(sources) if config.prior == "cubic" else None
        if self.prior is not None:
            for parameter in self.head.parameters():
                nn.init.zeros_(parameter)

    def forward(self, sources: Tensor) -> Tensor:
        """(B, M, *space) -> (B, 1, *space)"""
        aligned = self.alignment(sources)
        prediction: Tensor = self.head(self._channels(aligned))
        return prediction if self.prior is None else prediction + self.prior(aligned)

    def features(self, sources: Tensor) -> Tensor:
        """(B, M, *space) -> (B, K + C, *space): what `readout` weights; K is 1 without a prior."""
        aligned = self.alignment(sources)
        return torch.cat([self._simple(aligned), self._channels(aligned)], dim=1)

    def prior_features(self, sources: Tensor) -> Tensor:
        """The first K of `features`, without the network's work."""
        return self._simple(self.alignment(sources))

    @property
    def prior_count(self) -> int:
        """K, the number of coefficients of the prior; 0 without one."""
        return 0 if self.prior is None else self.prior.coefficients.numel()

    @property
    def readout(self) -> Tensor:
        """The last layer as one vector (K + C,): the coefficients of the prior with the head's bias in the first, then
        the head's weights."""
        bias = self.head.get_parameter("bias")
        simple = torch.zeros_like(bias) if self.prior is None else self.prior.coefficients.clone()
        simple[0] += bias[0]
        return torch.cat([simple, self.head.weight.flatten()]).detach()

    @torch.no_grad()
    def set_readout(self, readout: Tensor) -> None:
        """Take over a last layer (K + C,)."""
        bias, channels = self.head.get_parameter("bias"), self.head.weight.numel()
        simple, weight = readout[:-channels], readout[-channels:]
        self.head.weight.copy_(weight.reshape(self.head.weight.shape))
        if self.prior is None:
            bias.copy_(simple)
        else:
            self.prior.coefficients.copy_(simple)
            bias.zero_()

    def _simple(self, aligned: Tensor) -> Tensor:
        return torch.ones_like(aligned[:, :1]) if self.prior is None else monomials(aligned)

    def _channels(self, aligned: Tensor) -> Tensor:
        """The last block's output, (B, C, *space)."""
        x: Tensor = self.encoder[0](self.stem(to_channels_last(aligned)))
        finer: list[Tensor] = []
        for block in self.encoder[1:]:
            finer.append(x)
            x = block(AVERAGE_POOL[self.dims](x, 2))
        for block in self.decoder:
            x = block(torch.cat([F.interpolate(x, scale_factor=2), finer.pop()], dim=1))
        return x
