"""Whole slices and volumes through a predictor that was trained on crops of heads: the one way of prediction.

A skull-stripped slice is mostly exact zeros, and its normalisation statistics are far from those of a training crop. So
a predictor sees the box around the volume's non-zero source voxels, and where every source is exactly zero the
prediction is zero. On scans with noise around the head the box is the whole slice and nothing changes. Neither needs a
mask or the target (docs/decisions/0005).

A 3-D network sees a volume through windows of its training patch's size, for the same reason.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from agi_core.data.slabs import SliceBox, around

OVERLAP = 0.25


class Predictor(Protocol):
    """Whatever makes a target from sources: a `Network`, a `VoxelRegression`."""

    @property
    def neighbours(self) -> int:
        """Slices on either side that it must see of each slice."""

    @property
    def volumetric(self) -> bool:
        """Whether it must see all slices of a volume at once, in their order."""

    def predict(self, sources: Tensor) -> Tensor:
        """Sources (B, M, h, w) in [0, 1], or slabs (B, M, 2n + 1, h, w), -> prediction (B, 1, h, w), on the CPU. More
        channels are more volumes, such as the error that is expected of the first."""


def slabs(volume: Tensor, numbers: Sequence[int], neighbours: int) -> Tensor:
    """These slices of a volume (D, M, H, W), each with those `around` it: (B, M, 2n + 1, H, W); without neighbours
    (B, M, H, W)."""
    if not neighbours:
        return volume[torch.tensor(numbers)]
    of_each = [around(k, depth=len(volume), neighbours=neighbours) for k in numbers]
    return volume[torch.tensor(of_each)].transpose(1, 2)


def middle(sources: Tensor) -> Tensor:
    """The slices that a prediction is of: the middle ones of slabs (B, M, 2n + 1, H, W), all of (B, M, H, W)."""
    return sources[:, :, sources.shape[2] // 2] if sources.dim() == 5 else sources


def predict_whole(predictor: Predictor, sources: Tensor, *, box: SliceBox) -> Tensor:
    """Whole slices, or slabs of them, in [0, 1] -> prediction (B, 1, H, W), clipped to [0, 1]; see the module."""
    slices = middle(sources)
    inside = predictor.predict(sources[..., box[0], box[1]]).clamp(0, 1)
    prediction = inside.new_zeros(*inside.shape[:2], *slices.shape[-2:])
    prediction[..., box[0], box[1]] = inside
    return prediction * (slices != 0).any(dim=1, keepdim=True)


def predict_volume(predictor: Predictor, sources: Tensor, *, box: SliceBox, batch_size: int) -> Tensor:
    """All slices of a volume (D, M, H, W) in [0, 1] -> (D, 1, H, W) in [0, 1], `batch_size` at a time if they may be
    seen apart."""
    if predictor.volumetric:
        return predict_whole(predictor, sources, box=box)
    starts = range(0, len(sources), batch_size)
    batches = (range(len(sources))[start : start + batch_size] for start in starts)
    return torch.cat(
        [predict_whole(predictor, slabs(sources, some, predictor.neighbours), box=box) for some in batches]
    )


def through_windows(network: Callable[[Tensor], Tensor], sources: Tensor, *, crop: tuple[int, ...]) -> Tensor:
    """All slices of one volume through a 3-D network.

    Windows overlap by a quarter and are blended with Gaussian weights (MONAI), one at a time, so that memory grows with
    the volume by its own arrays alone. A volume smaller than the window is centred in zeros, as training patches are.
    Slices before the first and behind the last non-zero source voxel are not shown to the network, and zero.

    Args:
        network: sources (1, M, d, h, w) -> (1, C, d, h, w).
        sources: (D, M, H, W) in [0, 1].
        crop: (h, w, d) of a window.

    Returns:
        (D, C, H, W)
    """
    from monai.inferers.utils import sliding_window_inference  # here, because MONAI takes seconds to import

    h, w, d = crop
    occupied = torch.nonzero((sources != 0).flatten(1).any(dim=1))
    if not len(occupied):
        with torch.inference_mode():
            channels = network(sources.new_zeros(1, sources.shape[1], d, h, w)).shape[1]
        return sources.new_zeros(len(sources), channels, *sources.shape[2:])
    shown = slice(int(occupied[0]), int(occupied[-1]) + 1)
    volume = sources[shown].transpose(0, 1)[None]  # (1, M, D, H, W)
    with torch.inference_mode():  # MONAI weights the network's output in place
        result = sliding_window_inference(volume, (d, h, w), 1, network, overlap=OVERLAP, mode="gaussian")
    prediction = sources.new_zeros(len(sources), result.shape[1], *sources.shape[2:])
    prediction[shown] = result[0].transpose(0, 1)
    return prediction


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on a GPU, nothing elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
