"""Whole slices through a network that was trained on crops of heads: the one way of prediction, in evaluation and use.

A skull-stripped slice is mostly exact zeros, and its normalisation statistics are far from those of a training crop. So
the network sees the box around the volume's non-zero source voxels, and where every source is exactly zero the
prediction is zero. On scans with noise around the head the box is the whole slice and nothing changes. Neither needs a
mask or the target. (Two real stripped subjects after a short training: 19.4 and 18.2 dB on whole slices, 25.0 and
23.2 dB so; docs/decisions/0005.)

A 3-D network sees a volume through windows of its training patch's size, for the same reason.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Predict = Callable[[Tensor], Tensor]
"""Sources (B, M, h, w) in [0, 1], or slabs (B, M, 2n + 1, h, w), -> prediction (B, 1, h, w), on the CPU."""
Box = tuple[slice, slice]  # rows and columns of a slice
OVERLAP = 0.25


@dataclass(frozen=True)
class SlidingWindow:
    """A 3-D network as a `Predict` whose B slices are all slices of one volume, in their order.

    Windows overlap by a quarter and are blended with Gaussian weights (MONAI), one at a time, so that memory grows with
    the volume by its own arrays alone. A volume smaller than the window is centred in zeros, as training patches are.
    Slices before the first and behind the last non-zero source voxel are not shown to the network, and zero.

    Attributes:
        network: sources (1, M, d, h, w) -> (1, 1, d, h, w).
        crop: (h, w, d) of a window.
    """

    network: Predict
    crop: tuple[int, ...]

    def __call__(self, sources: Tensor) -> Tensor:
        """(D, M, H, W) in [0, 1] -> (D, 1, H, W)"""
        from monai.inferers.utils import sliding_window_inference  # here, because MONAI takes seconds to import

        prediction = torch.zeros_like(sources[:, :1])
        occupied = torch.nonzero((sources != 0).flatten(1).any(dim=1))
        if not len(occupied):
            return prediction
        shown = slice(int(occupied[0]), int(occupied[-1]) + 1)
        h, w, d = self.crop
        volume = sources[shown].transpose(0, 1)[None]  # (1, M, D, H, W)
        with torch.inference_mode():  # MONAI weights the network's output in place
            result = sliding_window_inference(volume, (d, h, w), 1, self.network, overlap=OVERLAP, mode="gaussian")
        prediction[shown] = result[0].transpose(0, 1)
        return prediction


def source_box(sources: NDArray[np.floating]) -> Box:
    """The smallest in-plane box with every non-zero voxel of the sources (D, M, H, W); everything if there is none."""
    occupied = (sources != 0).any(axis=(0, 1))
    if not occupied.any():
        return slice(0, occupied.shape[0]), slice(0, occupied.shape[1])
    rows, columns = np.flatnonzero(occupied.any(axis=1)), np.flatnonzero(occupied.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def around(k: int, *, depth: int, neighbours: int) -> list[int]:
    """Numbers of slice `k` of `depth` and its neighbours on either side, mirrored at the ends.

    Mirrored, not repeated: the alignment then sees no slope through an end slice and moves it in its plane alone; a
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
    """The slices that a prediction is of: of slabs (B, M, 2n + 1, H, W) the middle ones, of (B, M, H, W) all."""
    return sources[:, :, sources.shape[2] // 2] if sources.dim() == 5 else sources


def predictor(model: nn.Module, *, multiple: int, crop: tuple[int, ...] = ()) -> Predict:
    """The model for any slice size: zero-padded to `multiple`, cut back, without gradients, float32.

    `crop` is the training crop; one of three sizes, (h, w, d), is that of a 3-D network: it gives a `SlidingWindow`.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def predict(sources: Tensor) -> Tensor:
        height, width = sources.shape[-2:]
        padded = F.pad(sources, (0, -width % multiple, 0, -height % multiple)).to(device)
        model.eval()
        with torch.inference_mode(), autocast(device):
            prediction: Tensor = model(padded)
        return prediction[..., :height, :width].float().cpu()

    return SlidingWindow(predict, crop) if len(crop) == 3 else predict


def predict_whole(predict: Predict, sources: Tensor, *, box: Box) -> Tensor:
    """Whole slices, or slabs of them, in [0, 1] -> prediction (B, 1, H, W), clipped to [0, 1]; see the module."""
    slices = middle(sources)
    prediction = torch.zeros_like(slices[:, :1])
    prediction[..., box[0], box[1]] = predict(sources[..., box[0], box[1]]).clamp(0, 1)
    return prediction * (slices != 0).any(dim=1, keepdim=True)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on a GPU, nothing elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
