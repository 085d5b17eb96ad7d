"""Which network to build: every choice that the paper leaves open is a named option here.

This module needs the standard library alone, so that a configuration can be read and checked where torch is not
installed. Options marked [R] belong to our reconstruction of the CAGR convolution; `docs/paper_to_code.md` lists what
each stands for.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from agi_core.errors import ConfigError

CHOICES: Mapping[str, tuple[int, ...] | tuple[str, ...]] = {
    "alignment": ("none", "global", "affine", "dense"),
    "conv": ("cagr", "plain"),
    "prior": ("none", "cubic"),
    "dims": (2, 3),
    "placement": ("all", "encoder", "decoder"),
    "shift": ("circular", "open", "none"),
    "interpolation": ("linear", "fourier"),
}

MOST_NEIGHBOURS = 8  # far beyond any motion through the plane, and below 12, where the pooled search fails


@dataclass(frozen=True)
class ModelConfig:
    """A ResUNet and the kind of its 3-tap convolutions. The options from `groups` on are read by `conv: cagr` only."""

    conv: str = "cagr"
    """cagr: AGI-Net. plain: a ResUNet of the same widths and initial kernels, the baseline."""
    dims: int = 2
    """2: slices, 3: volumes."""
    alignment: str = "none"
    """Bring every source onto the reference before the network mixes them (`group_alignment`): global: by one offset
    per image; affine: by rotation, scale and shear too; dense: by a smooth field on top of that."""
    neighbours: int = 0
    """Slices on either side that the alignment sees of every source, to follow motion through the plane; 2-D only."""
    prior: str = "none"
    """cubic: the network makes the residual over a cubic polynomial of the aligned sources, solved in closed form."""
    widths: tuple[int, ...] = (16, 32, 64)
    """Channels at each scale, finest first; every further scale halves the space."""
    stem: int = 0
    """Channels that each source gets from a convolution of its own before the sources are mixed; 0: none."""
    adapters: int = 0
    """Channels of a bottleneck beside every block, to tune in its place (`privacy.trainable=adapters`); 0: none."""
    groups: int = 4
    """Channel groups of every CAGR convolution but the first, whose groups are the source modalities."""
    attention: bool = True
    """Cross-group attention on."""
    shuffle: bool = True
    """The attention's channel shuffle; off: a group's attention sees that group alone."""
    rolling: bool = True
    """Group-wise rolling and scaling of the kernel on."""
    shift: str = "circular"
    """[R] how rolling moves a kernel: circular: a roll; open: what leaves at an end is lost; none: offsets are 0."""
    scaling: bool = True
    """The scale lambda of rolling; off: it is 1."""
    placement: str = "all"
    """[R] which blocks of the ResUNet get CAGR convolutions: all, encoder, decoder."""
    interpolation: str = "linear"
    """[R] how a kernel is rolled by a fraction of a tap: linear (shrinks its norm) or fourier (keeps it)."""
    max_offset: float = 1.0
    """[R] bound of the offsets in taps, in (0, 1.5]: half the period of a circular roll of 3 taps."""
    routing_pool: int = 1
    """[R] average pooling in front of the routing function; 1: full resolution, 4: a sixteenth of its cost in 2-D."""

    def validate(self) -> None:
        """Raise ConfigError naming the first field that is out of range, its value and what is allowed."""
        for name, allowed in CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"model.{name} is {value!r}; choose one of {', '.join(map(str, allowed))}.")
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"model.widths is {list(self.widths)}; give at least one positive number of channels.")
        if not 0 <= self.neighbours <= MOST_NEIGHBOURS:
            raise ConfigError(f"model.neighbours is {self.neighbours}; it must be from 0 to {MOST_NEIGHBOURS}.")
        if self.neighbours and (self.dims == 3 or self.alignment == "none"):
            raise ConfigError(
                f"model.neighbours is {self.neighbours}, but neighbouring slices serve the alignment of 2-D slices; "
                "set model.alignment and leave model.dims at 2, or leave model.neighbours at 0."
            )
        if self.stem < 0:
            raise ConfigError(f"model.stem is {self.stem}; it must be at least 0 (0: no stem).")
        if self.adapters < 0:
            raise ConfigError(f"model.adapters is {self.adapters}; it must be at least 0 (0: no adapters).")
        if self.groups < 1:
            raise ConfigError(f"model.groups is {self.groups}; it must be at least 1.")
        if not 0 < self.max_offset <= 1.5:
            raise ConfigError(f"model.max_offset is {self.max_offset}; it must be above 0 and at most 1.5 taps.")
        if self.routing_pool < 1:
            raise ConfigError(f"model.routing_pool is {self.routing_pool}; it must be at least 1 (1: no pooling).")
        if self.conv == "plain":
            return
        if not (self.attention or self.rolling):
            raise ConfigError(
                "model.attention and model.rolling are both false, which leaves no CAGR; use model.conv=plain."
            )
        if self.stem % self.groups:
            raise ConfigError(
                f"model.stem is {self.stem}, which model.groups {self.groups} does not divide; choose a multiple."
            )
        if self.rolling and self.shift == "none" and not self.scaling:
            raise ConfigError(
                "model.shift is none and model.scaling false, which leaves no rolling; set model.rolling=false."
            )
        if self.shift == "open" and self.interpolation == "fourier":
            raise ConfigError("model.shift=open is no roll, which model.interpolation=fourier is made of; set linear.")
        for width in self.widths:
            if width % self.groups:
                raise ConfigError(
                    f"model.groups is {self.groups}, which does not divide {width} of model.widths "
                    f"{list(self.widths)}; choose a common divisor of the widths, or other widths."
                )


def name_of(config: ModelConfig) -> str:
    """The name that people read. A network of plain convolutions is never called AGI-Net."""
    name = "AGI-Net" if config.conv == "cagr" else "plain ResUNet"
    return name if config.alignment == "none" else f"{name} with group alignment"


def spatial_multiple(config: ModelConfig) -> int:
    """The number of pixels that every spatial size of the network's input must be a multiple of."""
    return 1 << (len(config.widths) - 1)
