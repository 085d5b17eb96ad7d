"""Image quality of a synthesised volume: PSNR, SSIM, MAE and NMSE, per subject, whole volume and foreground.

The data range is 1.0, fixed: intensities are percentile-scaled to [0, 1] before anything is scored, and a prediction is
clipped, never rescaled. Whole volume counts every voxel of every slice; foreground counts the head or brain found in
the real target (names end in `_foreground`).
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from agi_core.metric_table import METRIC_NAMES, METRICS, REGIONS, SSIM_WINDOW, Sums

SSIM_SIGMA = 1.5  # Gaussian window of Wang et al. 2004: sigma 1.5, 11 voxels on each axis; K1 = 0.01, K2 = 0.03
SSIM_RADIUS = SSIM_WINDOW // 2


class SubjectScore:
    """Running sums over the slices of one subject (all visits); `result` gives its metrics."""

    def __init__(self) -> None:
        self._sums = torch.zeros(
            2, 6, dtype=torch.float64
        )  # (whole, foreground) x (voxels, |e|, e^2, t^2, ssim cells, ssim)

    def add(self, prediction: Tensor, target: Tensor, foreground: Tensor) -> None:
        """Count slices: prediction and target (B, 1, H, W) in [0, 1], foreground (B, 1, H, W) bool; H and W at least
        11."""
        p, t = prediction.double(), target.double()
        error = p - t
        voxelwise = torch.stack([torch.ones_like(t), error.abs(), error.square(), t.square()])
        similarity = ssim_map(p, t)
        r = SSIM_RADIUS
        inner = foreground[:, :, r:-r, r:-r]
        for row, (voxels, cells) in enumerate(
            ((torch.ones_like(foreground), torch.ones_like(inner)), (foreground, inner))
        ):
            self._sums[row, :4] += (voxelwise * voxels).sum((1, 2, 3, 4)).cpu()
            self._sums[row, 4:] += torch.stack([cells.sum(), (similarity * cells).sum()]).double().cpu()

    def result(self) -> dict[str, float]:
        """`METRICS` of the subject, by name and region. Empty foreground: the foreground metrics are left out."""
        metrics: dict[str, float] = {}
        for region, row in zip(REGIONS, self._sums.tolist(), strict=True):
            sums = Sums(*row)
            if sums.voxels and sums.windows:
                metrics |= {f"{name}{region}": metric.value(sums) for name, metric in METRICS.items()}
        return metrics


def ssim_map(
    prediction: Tensor, target: Tensor, *, axes: tuple[int, ...] = (-2, -1), data_range: float = 1.0
) -> Tensor:
    """Local structural similarity (Wang et al. 2004, Eq. 13).

    Args:
        prediction: (..., H, W), at least 11 along each of `axes`. target: the same shape.
        axes: those of the window, from the end: two of a slice, (-3, -2, -1) of a volume.
        data_range: above 0.

    Returns:
        As `prediction`, 10 fewer along each axis of the window: only where the whole of it lies inside, as scikit-image
        averages it.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    moments = torch.stack([prediction, target, prediction.square() + target.square(), prediction * target])
    for axis in axes:
        moments = _blurred(moments, axis=axis)
    mean_p, mean_t, squares, product = moments
    squared_means, means = mean_p.square() + mean_t.square(), mean_p * mean_t
    luminance = (2 * means + c1) / (squared_means + c1)
    similarity: Tensor = luminance * (2 * (product - means) + c2) / (squares - squared_means + c2)
    return similarity


def _blurred(x: Tensor, *, axis: int) -> Tensor:
    """The Gaussian window along an axis, where it lies inside.

    On a CPU, sums of shifted images are faster in float64 than a convolution. In float32 the variances of a flat image
    would drown in rounding: 1e-4 of SSIM.
    """
    window = [math.exp(-0.5 * (offset / SSIM_SIGMA) ** 2) for offset in range(-SSIM_RADIUS, SSIM_RADIUS + 1)]
    inner = x.shape[axis] - 2 * SSIM_RADIUS
    blurred = x.narrow(axis, SSIM_RADIUS, inner) * (window[SSIM_RADIUS] / sum(window))
    for i in range(SSIM_RADIUS):  # the window is symmetric
        pair = x.narrow(axis, i, inner) + x.narrow(axis, 2 * SSIM_RADIUS - i, inner)
        blurred.add_(pair, alpha=window[i] / sum(window))
    return blurred


def neighbour_ssim(volume: Tensor, foreground: Tensor) -> float | None:
    """Mean SSIM between each slice and the next where both are foreground: how smoothly a volume goes through a plane.

    Args:
        volume: (D, H, W) in [0, 1]; other planes: `movedim`. foreground: bool, the same shape.

    Returns:
        In [-1, 1]; None where there is nothing to compare: no such voxel, or slices smaller than SSIM's window.
    """
    r = SSIM_RADIUS
    both = (foreground[1:] & foreground[:-1])[:, r:-r, r:-r]
    if not both.any():
        return None
    total = 0.0
    for k in torch.nonzero(both.flatten(1).any(dim=1)).flatten().tolist():
        here, following = volume[k : k + 2].double()[:, None, None]
        total += float(ssim_map(here, following)[0, 0][both[k]].sum())
    return total / int(both.sum())


def mean_over_subjects(subjects: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over the subjects that have it; empty without subjects."""
    rows = list(subjects)
    names = [name for name in METRIC_NAMES if any(name in row for row in rows)]
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(v) / len(v) for name, v in values.items()}
