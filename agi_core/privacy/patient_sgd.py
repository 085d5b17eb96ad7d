"""Patient-level DP-SGD: one private optimiser step whose unit is the subject with all its scans and slices.

With N the public number of subjects, q the lot rate, C the clip norm and sigma the noise multiplier, one step is

    L     = each subject drawn independently with probability q                          (a Poisson lot, maybe empty)
    g_i   = gradient of subject i's mean loss, over all trainable parameters as one vector
    grad  = (sum over i in L of g_i min(1, C / (|g_i| + 1e-6)) + sigma C z) / (q N),      z ~ N(0, 1) per parameter

followed by an ordinary optimiser step on `grad`: momentum, moments, weight decay and learning rate see nothing else.
A subject's term has norm at most C, whatever its scans show and however many slices they have. Whether a subject is in
the lot changes that one term and nothing else. So a step is the Poisson-subsampled Gaussian mechanism that
`agi_core.privacy.accounting` accounts for (Abadi et al. 2016; user level: McMahan et al. 2018). The denominator is a
constant, because the true size of a lot would tell who is in it.

This is our own code. Opacus's DPOptimizer computes the same (a test compares them), but it sums in float32, where
rounding makes a subject's influence on the sum slightly larger than C (Casacuberta et al. 2022). Its skip queue,
processed flags and `grad_sample` lists can also go wrong silently, and this loop has none of them.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from agi_core.errors import PrivacyError
from agi_core.host.device import sent
from agi_core.privacy.noise import NoiseSource, poisson_lot

log = logging.getLogger("agi_core")
LossOfSubject = Callable[[int], Tensor]
"""Number of a subject -> mean loss over slices of that subject alone, with its graph."""


@dataclass(frozen=True)
class Mechanism:
    """The public constants of a private step.

    Attributes:
        noise_multiplier: sigma, the noise's standard deviation over the clip norm; 0 (no privacy) is for tests.
        max_grad_norm: C, the largest norm of one subject's gradient.
        lot_rate: q, the probability of each subject to be in a lot.
        subjects: N, the site's public number of subjects. It is stated, not counted from the data.

    Raises:
        PrivacyError: a value out of range.
    """

    noise_multiplier: float
    max_grad_norm: float
    lot_rate: float
    subjects: int

    def __post_init__(self) -> None:
        if not 0 <= self.noise_multiplier < math.inf:
            raise PrivacyError(f"noise_multiplier={self.noise_multiplier} must be a number from 0 on")
        if not 0 < self.max_grad_norm < math.inf:
            raise PrivacyError(f"max_grad_norm={self.max_grad_norm} must be a positive number")
        if not 0 < self.lot_rate <= 1:
            raise PrivacyError(f"lot_rate={self.lot_rate} must lie above 0 and up to 1 (a probability)")
        if self.subjects < 1:
            raise PrivacyError(f"subjects={self.subjects} must be at least 1")

    def noise_over_signal(self, *, parameters: int, steps: int) -> float:
        """The norm of the noise over the largest norm of the signal, the subjects' mean gradient, in a sum of `steps`
        steps: sigma sqrt(parameters / steps) / (q N). The signal grows with the steps, the noise with their root."""
        return self.noise_multiplier * math.sqrt(parameters / steps) / (self.lot_rate * self.subjects)


def private_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of_subject: LossOfSubject,
    *,
    count: int,
    mechanism: Mechanism,
    noise: NoiseSource,
) -> None:
    """One private step in place; each parameter's `grad` holds the noised gradient afterwards.

    A parameter that a subject's loss does not use has gradient 0 there, and gets the same noise as any other. A subject
    whose gradient is not finite, or fails, adds nothing: a step that failed would tell who is in the lot. Empty lots
    make steps of noise alone.

    Args:
        loss_of_subject: called once for each subject in the lot, with its number below `count`. What it raises goes to
            the log and no further.
        count: the number of subjects to draw from.

    Raises:
        PrivacyError: model or optimiser does not qualify; the message says why.
    """
    parameters = qualified_parameters(model, optimizer)
    sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    for subject in poisson_lot(count, rate=mechanism.lot_rate, noise=noise):
        try:
            gradients = torch.autograd.grad(loss_of_subject(subject), parameters, allow_unused=True)
            _add_clipped(sums, gradients, max_grad_norm=mechanism.max_grad_norm)
        except Exception:
            log.exception("the gradient of a subject failed, so it adds nothing to this step")

    scale = mechanism.noise_multiplier * mechanism.max_grad_norm
    sizes = [parameter.numel() for parameter in parameters]
    drawn = torch.empty(sum(sizes), dtype=torch.float64)
    np.concatenate([noise.normal(size) for size in sizes], out=drawn.numpy())
    noises = torch.split(sent(drawn, parameters[0].device), sizes)
    for parameter, total, z in zip(parameters, sums, noises, strict=True):
        noised = total + scale * z.view_as(parameter)
        parameter.grad = (noised / (mechanism.lot_rate * mechanism.subjects)).to(parameter.dtype)
    optimizer.step()


def _add_clipped(sums: Sequence[Tensor], gradients: Sequence[Tensor | None], *, max_grad_norm: float) -> None:
    """Add one subject's gradient, as one vector clipped to norm `max_grad_norm`, to `sums` (float64).

    Every decision is a tensor's: a program that asks for the norm keeps a GPU waiting.
    """
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients if g is not None]
    norm = torch.stack(norms).norm()
    finite, nothing = norm.isfinite(), torch.zeros_like(norm)
    factor = (max_grad_norm / (torch.where(finite, norm, nothing) + 1e-6)).clamp(max=1)
    for total, gradient in zip(sums, gradients, strict=True):
        if gradient is not None:
            total.add_(torch.where(finite, gradient.double(), nothing) * factor)


def qualified_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The model's trainable parameters, all of which a private step clips, noises and updates.

    Raises:
        PrivacyError: data would change more than these parameters, or the samples of a batch would be mixed.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise PrivacyError(
                f"{name or 'the model'} is a {type(module).__name__}: it normalises by statistics of a batch and keeps"
                " them; use GroupNorm"
            )
        if buffers := [own for own, _ in module.named_buffers(recurse=False)]:
            raise PrivacyError(
                f"{name or 'the model'} keeps {', '.join(buffers)}, which a forward pass may change without clipping or"
                " noise; private training needs a model without buffers and running statistics"
            )
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimised = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not parameters or {id(p) for p in parameters} != {id(p) for p in optimised}:
        raise PrivacyError(
            f"the optimiser holds {len(optimised)} parameters, the model has {len(parameters)} that are trainable; all"
            " of these, and nothing else, must be trained privately"
        )
    return parameters
