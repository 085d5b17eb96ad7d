"""AGI-Net: a ResUNet whose 3-tap convolutions are CAGR modules, cross-group attention then group-wise rolling.

Reconstructed from the text of Song et al., "Learning Modality-Aware Representations: Adaptive Group-wise Interaction
Network for Multimodal MRI Synthesis" (arXiv 2411.14684; IEEE TMI 45(5):2306-2316, 2026). Its code, equations and
settings were not available to us: `docs/paper_to_code.md` says what is known and what is our choice.
"""

from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from agi_core.errors import ConfigError
from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.models.cross_group_attention import CrossGroupAttention, mean_over_space
from agi_core.models.group_rolling import TAPS, Routing, roll_kernel
from agi_core.models.model_config import ModelConfig
from agi_core.models.resunet import CONV, CONVOLVE, ResUNet, to_channels_last

SMALL_SAMPLE = 20480
"""On a CPU, torch does not give a single sample of up to so many elements (C times two axes) to oneDNN, and is then
several times slower."""


def one_by_one(x: Tensor) -> bool:
    """Whether samples go one after another: on a CPU. A GPU would wait for each of their many launches."""
    return x.device.type == "cpu"


class CagrConv(nn.Module):
    """The CAGR convolution: 3 taps per axis, no bias, one kernel per sample.

        y[b] = conv(x[b], W'[b])        W'[b, o, c] = A[b, c] lam[b, g(c)] R(d[b, g(c)]) W[o, c]

    The attention A is constant in space, so it multiplies the kernel instead of x: attention, scale and roll fold into
    one kernel per sample and one ordinary convolution. On a CPU, samples run one after another, so that routing and
    convolution find a sample in the cache; small ones, and all on a GPU, run together as groups of one convolution. W
    starts as nn.Conv2d's kernel does. A, lam, d and R are computed in the precision of the parameters, under autocast
    too.
    """

    def __init__(self, channels_in: int, channels_out: int, *, groups: int, config: ModelConfig) -> None:
        super().__init__()
        self.interpolation, self.circular = config.interpolation, config.shift == "circular"
        self.convolve = partial(CONVOLVE[config.dims], padding=1)
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, *[TAPS] * config.dims))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.attention = (
            CrossGroupAttention(channels_in, groups=groups, shuffle=config.shuffle) if config.attention else None
        )
        self.routing = Routing(channels_in, groups=groups, config=config) if config.rolling else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *space) -> (B, C_out, *space); an empty batch gives an empty result."""
        if len(x) == 0:
            return self.convolve(x, self.weight)
        apart = one_by_one(x)
        kernels = self.kernels(torch.split(x, 1) if apart else (x,))
        # For fewer channels the copies cost more. A graph that is exported has one path for all sizes.
        small = not torch.compiler.is_compiling() and x.shape[1] >= 8 and prod(x.shape[1:4]) <= SMALL_SAMPLE
        if small or not apart:
            y = self.convolve(x.flatten(0, 1), kernels.flatten(0, 1), groups=len(x))  # (B C_out, *space)
            return to_channels_last(y.reshape(len(x), -1, *y.shape[1:]))
        return torch.cat([self.convolve(sample[None], kernel) for sample, kernel in zip(x, kernels, strict=True)])

    def kernels(self, samples: tuple[Tensor, ...]) -> Tensor:
        """W' of the class: B samples, in parts (b, C_in, *space) that are seen together, -> (B, C_out, C_in, *taps)"""
        without_autocast = torch.autocast(samples[0].device.type, enabled=False)
        z = torch.cat([mean_over_space(sample, dtype=self.weight.dtype) for sample in samples])
        with without_autocast:
            attention: Tensor = self.attention(z) if self.attention else torch.ones_like(z)
        rolled = self.weight[None]
        if self.routing:
            attentions = torch.split(attention, len(samples[0]))
            h = torch.cat([self.routing.summarise(x, a) for x, a in zip(samples, attentions, strict=True)])
            with without_autocast:
                scale, offset = self.routing(h)
                rolled = roll_kernel(
                    self.weight, scale=scale, offset=offset, interpolation=self.interpolation, circular=self.circular
                )
        return rolled * attention.reshape(len(z), 1, -1, *[1] * (self.weight.dim() - 2))


def build_model(config: ModelConfig, *, sources: int, reference: int | None = None, seed: int = 0) -> ResUNet:
    """The network of `config`: (B, sources, *space) in [0, 1] -> (B, 1, *space), unbounded; float32, on the CPU.

    `reference` is the number of the source in the target's pose, which the others are aligned to; None: the last one.
    With `config.neighbours` n the network takes slabs (B, sources, 2n + 1, H, W) and predicts their middle slices.

    Weights depend on `seed` alone, and torch's global generator stays as it was. Parameters that both kinds of network
    share have the same names, and one seed gives them the same values, bit for bit.
    Raises ConfigError.
    """
    config.validate()
    if sources < 1:
        raise ConfigError(f"The model has {sources} source modalities; give at least one.")
    if reference is None:
        reference = sources - 1
    if not 0 <= reference < sources:
        raise ConfigError(f"The reference is source number {reference}, but the model has {sources}.")

    plain_conv = partial(CONV[config.dims], kernel_size=TAPS, padding=1, bias=False)

    def cagr_conv(channels_in: int, channels_out: int) -> nn.Module:
        groups = sources if channels_in == sources else config.groups  # without a stem the first groups are the sources
        return CagrConv(channels_in, channels_out, groups=groups, config=config)

    alignment = nn.Identity() if config.alignment == "none" else GroupAlignment(config, reference=reference)
    resunet = partial(ResUNet, config, sources=sources, alignment=alignment)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        plain = resunet(encoder=plain_conv, decoder=plain_conv)
        if config.conv == "plain":
            return plain
        agi_net = resunet(
            encoder=plain_conv if config.placement == "decoder" else cagr_conv,
            decoder=plain_conv if config.placement == "encoder" else cagr_conv,
        )
    agi_net.load_state_dict(plain.state_dict(), strict=False)
    return agi_net
