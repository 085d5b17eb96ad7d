"""The SSIM term of the loss, against MONAI's."""

import pytest
import torch

from agi_core.network import CPU
from agi_core.ssim_loss import ssim_loss


@pytest.mark.parametrize("space", [(64, 48), (20, 24, 16)])
def test_values_and_gradients_are_monais_bit_for_bit(space: tuple[int, ...]) -> None:
    from monai.losses import SSIMLoss

    prediction, target = torch.rand((2, 3, 1, *space), generator=torch.Generator().manual_seed(0))
    results = []
    for loss in (ssim_loss(dims=len(space), device=CPU), SSIMLoss(spatial_dims=len(space), data_range=1.0)):
        made = prediction.clone().requires_grad_()
        value = loss(made, target)
        results.append((value, *torch.autograd.grad(value, made)))
    for ours, monais in zip(*results, strict=True):
        assert torch.equal(ours, monais)
