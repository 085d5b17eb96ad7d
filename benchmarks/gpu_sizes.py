"""What `benchmarks.gpu` measures and how much of it: sizes, networks, made-up images. It needs no package but torch."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from agi_core.models.model_config import ModelConfig

SOURCES = 2
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    widths: tuple[int, ...]
    batch: int
    pixels: int
    patch: tuple[int, int, int]  # rows, columns, slices
    steps: int  # timed
    equal_steps: int
    volume: tuple[int, int, int]  # slices, rows, columns
    matrix: int  # of the product that shows the device's peak
    federation: tuple[str, ...]
    compiler: str  # of `torch.compile`


SIZES = {
    "full": Size(
        *((64, 128, 256, 512), 16, 256, (96, 96, 32), 10, 20, (150, 256, 256), 8192),
        federation=("--rounds", "2"),
        compiler="inductor",
    ),
    "toy": Size(
        *((4, 8), 4, 32, (16, 16, 8), 1, 1, (2, 32, 32), 128),
        federation=("--rounds", "1", "model.widths=[4]", "training.local_steps=1", "grid.crop=[32,32]"),
        compiler="eager",  # the graph alone: code for it takes a minute
    ),
}


def variants(widths: tuple[int, ...]) -> dict[str, ModelConfig]:
    """Every kind of network, by what it shows of the options."""
    plain, cagr = ModelConfig(conv="plain", widths=widths), ModelConfig(widths=widths)
    return {
        "plain": plain,
        "plain, prior": ModelConfig(conv="plain", widths=widths, prior="cubic"),
        "plain, stem and adapters": ModelConfig(conv="plain", widths=widths, stem=4, adapters=4),
        "global": ModelConfig(conv="plain", widths=widths, alignment="global"),
        "affine": ModelConfig(conv="plain", widths=widths, alignment="affine"),
        "dense": ModelConfig(conv="plain", widths=widths, alignment="dense"),
        "dense, neighbours": ModelConfig(conv="plain", widths=widths, alignment="dense", neighbours=1),
        "cagr": cagr,
        "cagr, attention": ModelConfig(widths=widths, rolling=False),
        "cagr, rolling, open": ModelConfig(widths=widths, attention=False, shift="open"),
        "cagr, fourier, pooled": ModelConfig(widths=widths, interpolation="fourier", routing_pool=2),
        "default": ModelConfig(widths=widths, alignment="dense", neighbours=1),
        "plain, 3-D": ModelConfig(conv="plain", widths=widths, dims=3),
        "default, 3-D": ModelConfig(widths=widths, dims=3, alignment="dense"),
    }


def random_images(config: ModelConfig, *, count: int, space: Sequence[int]) -> Tensor:
    """Smooth random sources, and behind them their mean as the target, which a network can learn: those of a batch, as
    `TrainingSlices` draws them."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, SOURCES, *[max(1, length // 8) for length in space], generator=generator)
    smooth = F.interpolate(coarse, size=[*space], mode="trilinear" if config.dims == 3 else "bilinear")
    images = torch.cat([smooth, smooth.mean(1, keepdim=True)], dim=1).half()
    if not config.neighbours:
        return images
    return images[:, :, None].expand(-1, -1, 2 * config.neighbours + 1, *space).contiguous()


@contextmanager
def deterministic() -> Iterator[None]:
    """As `deterministic=true` has the device compute."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds, what was queued on a GPU included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def out_of_time(name: str) -> Row:
    return {"not measured": f"{name}: the time was over"}
