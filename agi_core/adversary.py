"""pix2pix's other half: a discriminator that judges patches of a target, given its sources (Isola et al., CVPR 2017).

The generator minimises L1 + BCE(D(sources, prediction), real) / 100. That is the paper's 100 L1 + GAN in units of the
L1 loss, so the learning rate keeps its meaning. D is MONAI's PatchGAN with instance norm. It is trained beside the
generator with the paper's Adam, starts anew in each round as optimisers do, and never leaves the site.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from agi_core.prediction import autocast

GAN_WEIGHT = 0.01
CHANNELS = 32  # the paper's 64 would cost several steps of a generator of 16 to 64 channels
LEARNING_RATE, BETAS = 2e-4, (0.5, 0.999)

AdversarialLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def adversarial_loss(*, sources: int, dims: int, device: torch.device, seed: int) -> AdversarialLoss:
    """A new discriminator as a function (sources, prediction, target) -> what to add to the generator's loss.

    Each call first trains the discriminator by one step. `seed` sets its initial weights.
    """
    from monai.networks.nets import PatchDiscriminator  # here, because MONAI takes seconds to import and is an option

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        discriminator = PatchDiscriminator(
            spatial_dims=dims, in_channels=sources + 1, channels=CHANNELS, num_layers_d=3, norm="INSTANCE"
        ).to(device)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=LEARNING_RATE, betas=BETAS)

    def judged(images: Tensor, given: Tensor, *, real: bool) -> Tensor:
        with autocast(device):
            logits = discriminator(torch.cat([given, images], dim=1))[-1].float()  # the last of its feature maps
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))

    def loss(given: Tensor, prediction: Tensor, target: Tensor) -> Tensor:
        optimizer.zero_grad()
        verdict = judged(target, given, real=True) + judged(prediction.detach(), given, real=False)
        (0.5 * verdict).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        discriminator.requires_grad_(False)
        fooled = judged(prediction, given, real=True)
        discriminator.requires_grad_(True)
        return GAN_WEIGHT * fooled

    return loss
