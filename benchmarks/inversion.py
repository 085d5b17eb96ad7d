"""What the update of one subject shows of its images: gradient inversion. Part of `benchmarks.attacks`.

The site takes one local step on one crop of one subject, by the product's own loop, from weights that the attacker
knows; it sees the weights afterwards too. With sources x, network f and loss mean |f(x) - t|, the gradient is
J(x)^T d / n with d = sign(f(x) - t): the target shows through d alone. So the attacker looks for x and d:

    min over x, d of  1 - cos(update, J(x)^T d) + TV_WEIGHT TV(x)        (after Geiping et al. 2020, equation 4)

by Adam on free numbers, of which x is the sigmoid and d the tanh, with the mean cosine of the parameters, from the mean
of public images. An AdamW step's update is nearly the sign of the gradient, so the candidate's is compared after a
smooth sign. Where the attacker scales the head by `MADE`, the gradients of all other weights lie below AdamW's epsilon,
so their update is the gradient itself; it points where that of a head that is not scaled does. The attacker is given
what helps: no pooling, and a bias of the head that brings the output to the mean of the target; where d is the same
everywhere a convolutional gradient hardly knows where anything lies.
"""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agi_core.config.schema import PrivacyConfig, Task, TrainingConfig
from agi_core.metric_table import psnr_db
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.models.resunet import ResUNet
from agi_core.privacy.accounting import calibrate
from agi_core.privacy.noise import insecure_seeded_noise
from agi_core.privacy.patient_sgd import Mechanism
from agi_core.training import train_round, train_round_privately
from benchmarks import membership

Results = Mapping[tuple[str, int], Mapping[str, Any]]  # (setting, seed) -> result of `attack`

SEEDS, ITERATIONS, TV_WEIGHT, SIZE = 3, 1200, 1e-5, 8
MADE, BODY = 1e-9, -2  # all parameters but the last two, which are the head's
TASK = Task(
    scenario="T1,T2:PD",
    rounds=10,  # and the first is attacked: in the last the learning rate is nearly 0
    model=ModelConfig(conv="plain", widths=(32,)),
    training=TrainingConfig(local_steps=1, batch_size=1),
    privacy=PrivacyConfig(lot_rate=1.0, slices_per_subject=1),
)


class Setting(NamedTuple):
    """How the step is taken; `epsilon` None: without noise. `made`: from weights that the attacker made for it."""

    private: bool
    epsilon: float | None
    made: bool = False


SETTINGS = {
    "AdamW step": Setting(False, None),
    "AdamW step, weights made for it": Setting(False, None, made=True),
    "clipped, no noise": Setting(True, None),
    "epsilon 8": Setting(True, 8.0),
    "epsilon 1": Setting(True, 1.0),
}


def attack(images: Tensor, setting: Setting, seed: int) -> dict[str, Any]:
    """Invert the update of the first slice of subject `seed` of the first site, and compare the sources found with the
    true ones; `mean image` is what the attacker knows without an update, the mean of the public subjects."""
    middle = slice((membership.SIZE - SIZE) // 2, (membership.SIZE + SIZE) // 2)
    crops = images[:, :, :1, :, middle, middle]
    subject, public = crops[0, [seed]], crops[-1, :, 0]
    model = known_model(public, seed=seed)
    if setting.made:
        model.get_parameter("head.weight").data.mul_(MADE)
    update = updated(model, subject, setting=setting, seed=seed)
    if setting.made:  # all but the head's own; cosines do not know the scale
        largest = max(float(change.abs().max()) for change in update[:BODY])
        update = [change / largest for change in update[:BODY]]
    mean, signs = public[:, :2].mean(0, keepdim=True), not (setting.private or setting.made)
    found, cosine = invert(update, known_model(public, seed=seed), start=mean, signs=signs, seed=seed)
    true = subject[0, :, :2]
    return {"found": similarity(found, true), "mean image": similarity(mean, true), "cosine": cosine}


def known_model(public: Tensor, *, seed: int) -> ResUNet:
    """Initial weights, with the output's mean brought to that of the public targets."""
    model = build_model(TASK.model, sources=2, seed=seed)
    with torch.no_grad():
        bias: Tensor = model.head.bias  # type: ignore[assignment]
        bias += (public[:, 2:] - model(public[:, :2])).mean()
    return model


def updated(model: ResUNet, subject: Tensor, *, setting: Setting, seed: int) -> list[Tensor]:
    """Weights before minus after the local round, per parameter; the model is trained in place."""
    before = [parameter.detach().clone() for parameter in model.parameters()]
    draw, task = membership.drawing(subject), dataclasses.replace(TASK, seed=seed)
    if setting.private:
        train_round_privately(
            model,
            lambda _, generator, count: draw(generator, count),
            subjects=["0"],
            mechanism=Mechanism(noise_multiplier(setting.epsilon), task.privacy.max_grad_norm, 1.0, 1),
            noise=insecure_seeded_noise(seed),
            task=task,
            round=1,
        )
    else:
        train_round(model, draw, task=task, site="site", round=1)
    return [old - new.detach() for old, new in zip(before, model.parameters(), strict=True)]


def noise_multiplier(epsilon: float | None) -> float:
    """That of the federations of `benchmarks.membership`, where epsilon counts all their steps; 0 without epsilon."""
    if epsilon is None:
        return 0.0
    return calibrate(epsilon, delta=1e-5, lot_rate=membership.LOT_RATE, steps=membership.STEPS)


def invert(update: list[Tensor], model: ResUNet, *, start: Tensor, signs: bool, seed: int) -> tuple[Tensor, float]:
    """Sources (1, 2, h, w) whose gradient points where the update does, and the mean cosine that was reached."""
    parameters, generator = list(model.parameters())[: len(update)], torch.Generator().manual_seed(seed)
    x_free = torch.logit(start.clamp(0.02, 0.98)).requires_grad_()
    d_free = (0.1 * torch.randn(start[:, :1].shape, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([x_free, d_free], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)
    cosine = torch.zeros(())
    for _ in range(ITERATIONS):
        x, d = x_free.sigmoid(), d_free.tanh()
        gradients = torch.autograd.grad((model(x) * d).mean(), parameters, create_graph=True)
        if signs:
            gradients = tuple(torch.tanh(g / g.detach().abs().median().clamp_min(1e-12)) for g in gradients)
        cosines = [F.cosine_similarity(g.flatten(), u.flatten(), dim=0) for g, u in zip(gradients, update, strict=True)]
        cosine = torch.stack(cosines).mean()
        loss = 1 - cosine + TV_WEIGHT * total_variation(x)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return x_free.detach().sigmoid(), cosine.item()


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours."""
    return x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()


def similarity(found: Tensor, true: Tensor) -> dict[str, float]:
    """PSNR in dB, and Pearson's correlation in the place of SSIM, whose window of 11 voxels does not fit in."""
    correlation = np.corrcoef(found.flatten().numpy(), true.flatten().numpy())[0, 1]
    return {"psnr_db": psnr_db(float((found - true).square().mean())), "correlation": float(correlation)}


def table(results: Results) -> str:
    """Markdown: mean (smallest to largest) over seeds."""

    def cells(rows: list[Mapping[str, float]]) -> str:
        decibels, correlations = ([row[name] for row in rows] for name in ("psnr_db", "correlation"))
        return f"{_spread(decibels, 1)} | {_spread(correlations, 2)}"

    lines = ["| what the site sends | PSNR of the sources found, dB | correlation |", "|---|---|---|"]
    for name in SETTINGS:
        lines.append(f"| {name} | {cells([results[name, seed]['found'] for seed in range(SEEDS)])} |")
    first = next(iter(SETTINGS))
    means = [results[first, seed]["mean image"] for seed in range(SEEDS)]
    lines.append(f"| nothing (the mean of public subjects) | {cells(means)} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.fmean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
