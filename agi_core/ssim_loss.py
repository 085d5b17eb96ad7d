"""The loss 1 - SSIM: MONAI's `SSIMLoss` bit for bit, with a window that is made once, on the device.

MONAI makes its window on the CPU in each call, and its copy keeps a GPU waiting.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from agi_core.metrics import SSIM_RADIUS, SSIM_SIGMA
from agi_core.models.resunet import CONVOLVE

C1, C2 = 0.01**2, 0.03**2  # of a data range of 1


def ssim_loss(*, dims: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of prediction and target, float32 (B, 1, *space) in [0, 1], at least 11 along each axis: the mean of
    1 - SSIM over all places where the whole window lies inside."""
    distance = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=torch.float32)
    gauss = torch.exp(-torch.pow(distance / SSIM_SIGMA, 2) / 2)
    window = line = gauss / gauss.sum()
    for _ in range(dims - 1):
        window = window[..., None] * line
    local_mean = partial(CONVOLVE[dims], weight=window[None, None].to(device))

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        mean_p, mean_t = local_mean(prediction), local_mean(target)
        variance_p = local_mean(prediction * prediction) - mean_p * mean_p
        variance_t = local_mean(target * target) - mean_t * mean_t
        covariance = local_mean(prediction * target) - mean_p * mean_t
        contrast = (2 * covariance + C2) / (variance_p + variance_t + C2)
        similarity = ((2 * mean_p * mean_t + C1) / (mean_p**2 + mean_t**2 + C1)) * contrast
        return (1 - similarity.flatten(1).mean(dim=1)).mean()

    return loss
