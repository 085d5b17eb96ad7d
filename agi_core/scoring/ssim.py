"""SSIM in 3-D: as the BraSyn challenge counts it, and as a map.

BraSyn masks both images and averages over the whole volume. A window that holds nothing of the mask has an SSIM of 1,
so most of the figure is about nothing: a black prediction of a tumour of 20 mm radius still has more than 0.99. The
mean of the map inside the tumour says what that figure hides.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from agi_core.data.intensity import BoolArray
from agi_core.metric_table import SSIM_WINDOW
from agi_core.metrics import SSIM_RADIUS, ssim_map
from agi_core.segmentation.box import box_of

_AXES = (-3, -2, -1)


def brasyn_ssim(synthetic: NDArray[np.floating], real: NDArray[np.floating], mask: BoolArray) -> float | None:
    """SSIM of two volumes (I, J, K) within a mask, as BraSyn counts it; they may be of any scale.

    Each volume is clipped to [max(0, p0.5), p99.5] of itself, scaled to [0, 1] and masked. SSIM is averaged over the
    whole volume but five voxels at each side. The data range is the larger one of the two masked volumes.

    Returns:
        In [-1, 1]; None where both masked volumes are black, as with an empty mask, or smaller than a window.
    """
    a, b = (_scaled_by_itself(volume) * mask for volume in (synthetic, real))
    data_range = float(max(np.ptp(a), np.ptp(b)))
    if data_range == 0 or min(a.shape) < SSIM_WINDOW:
        return None
    windows = np.prod(np.array(a.shape) - 2 * SSIM_RADIUS)
    box = box_of((a != 0) | (b != 0), margin=2 * SSIM_RADIUS)  # no window beyond it holds anything: SSIM 1
    inside = _map(a[box], b[box], data_range=data_range)
    return float((inside.sum() + windows - inside.size) / windows)


def ssim_volume(synthetic: NDArray[np.floating], real: NDArray[np.floating]) -> NDArray[np.float64]:
    """The map of SSIM of two volumes (I, J, K) in [0, 1]; NaN where the window does not lie inside."""
    result = np.full(real.shape, np.nan)
    if min(real.shape) >= SSIM_WINDOW:
        inner = tuple(slice(SSIM_RADIUS, n - SSIM_RADIUS) for n in real.shape)
        result[inner] = _map(synthetic, real, data_range=1.0)
    return result


def _scaled_by_itself(volume: NDArray[np.floating]) -> NDArray[np.float64]:
    low, high = np.percentile(volume, (0.5, 99.5))
    low = max(0.0, low)
    if high <= low:
        return np.zeros(volume.shape)
    return np.asarray((np.clip(volume, low, high) - low) / (high - low), dtype=np.float64)


def _map(a: NDArray[np.floating], b: NDArray[np.floating], *, data_range: float) -> NDArray[np.float64]:
    both = (torch.from_numpy(np.asarray(volume, dtype=np.float64)) for volume in (a, b))
    result: NDArray[np.float64] = ssim_map(*both, axes=_AXES, data_range=data_range).numpy()
    return result
