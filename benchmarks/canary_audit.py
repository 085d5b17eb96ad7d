"""An audit of private training: does a site show more of one patient than its epsilon allows?

    python -m benchmarks.canary_audit

A tiny site is trained 200 times by the product's own private step, half of the times with one patient more: a canary,
whose images no other patient resembles. The auditor knows everything but the noise and the lots: all patients, and all
weights before and after each step. It measures each step's noised gradient along the part of the canary's clipped
gradient in which no other patient has any. It says "with the canary" where the sum over the steps is more than half of
what the canary is expected to add. That threshold is set before any training.

From the errors of 100 + 100 guesses follows, with 95 % confidence, a lower bound of epsilon (Clopper and Pearson 1934;
Jagielski, Ullman, Oprea 2020): with p the lowest probability of a true alarm and f the highest of a false one,

    epsilon >= ln((p - delta) / f),      and likewise of the silences

The stated epsilon can be right only if this bound is below it. 100 trainings of each kind can show at most 3.3.
"""

import argparse
import math
import platform
import time
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.stats import beta
from torch import Tensor, nn

from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.privacy.accounting import Steps, calibrate, epsilon
from agi_core.privacy.noise import InsecureNoiseWarning, insecure_seeded_noise
from agi_core.privacy.patient_sgd import Mechanism, private_step
from benchmarks.commit import commit

SIZE, PATIENTS, STEPS, LOT_RATE, CLIP, DELTA = 16, 4, 4, 0.5, 0.05, 1e-5
EPSILONS = (8.0, 1.0, None)  # None: no noise, so that the audit is seen to work


def main() -> None:
    parser = argparse.ArgumentParser(description="An empirical lower bound of epsilon, by a canary patient.")
    parser.add_argument("--trainings", type=int, default=100, help="with the canary, and as many without (%(default)s)")
    trainings = parser.parse_args().trainings
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", InsecureNoiseWarning)  # fixed seeds, so that the table can be made again
    started = time.process_time()
    print("| stated epsilon | noise multiplier | true alarms | false alarms | lower bound of epsilon |")
    print("|---|---|---|---|---|", flush=True)
    for target in EPSILONS:
        print(row(target, trainings), flush=True)
    print(f"\nCommit {commit()}, {platform.machine()}, one thread, {time.process_time() - started:.0f} s of CPU")


def row(target: float | None, trainings: int) -> str:
    """A line of the table."""
    sigma = calibrate(target, delta=DELTA, lot_rate=LOT_RATE, steps=STEPS) if target else 0.0
    stated = f"{epsilon([Steps(sigma, LOT_RATE, STEPS)], delta=DELTA):.2f}" if target else "none"
    false_alarms, true_alarms = (
        sum(alarm(sigma, canary=canary, seed=2 * n + canary) for n in range(trainings)) for canary in (False, True)
    )
    bound = lowest_epsilon(true_alarms, false_alarms, trainings=trainings)
    return f"| {stated} | {sigma:.2f} | {true_alarms} | {false_alarms} | {bound:.2f} |"


def alarm(sigma: float, *, canary: bool, seed: int) -> bool:
    """Train once, with or without the canary, and guess which it was."""
    others, odd_one = patients()
    model = build_model(ModelConfig(conv="plain", widths=(4,)), sources=2, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)  # it shows the noised gradient; AdamW hides part of it
    mechanism, noise = Mechanism(sigma, CLIP, LOT_RATE, PATIENTS), insecure_seeded_noise(seed)
    site, shown, expected = [*others, odd_one][: PATIENTS + canary], 0.0, 0.0
    for _ in range(STEPS):
        own = clipped_gradient(model, odd_one)
        span, _ = torch.linalg.qr(torch.stack([clipped_gradient(model, one) for one in others], dim=1))
        own = own - span @ (span.T @ own)
        private_step(
            model,
            optimizer,
            lambda number: loss(model, site[number]),
            count=len(site),
            mechanism=mechanism,
            noise=noise,
        )
        told = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        shown += float(told @ own) * PATIENTS * LOT_RATE
        expected += float(own @ own) * LOT_RATE
    return shown > expected / 2


def lowest_epsilon(true_alarms: int, false_alarms: int, *, trainings: int) -> float:
    """The larger of the module's two bounds, at least 0; each interval is of 97.5 %, for 95 % of both together."""
    bounds = [0.0]
    for hits, misses in ((true_alarms, false_alarms), (trainings - false_alarms, trainings - true_alarms)):
        lowest = float(beta.ppf(0.025, hits, trainings - hits + 1)) if hits else 0.0
        highest = float(beta.ppf(0.975, misses + 1, trainings - misses)) if misses < trainings else 1.0
        if lowest > DELTA:
            bounds.append(math.log((lowest - DELTA) / highest))
    return max(bounds)


def patients() -> tuple[Sequence[Tensor], Tensor]:
    """Two sources and a target of each patient, (1, 3, SIZE, SIZE) in [0, 1]: smooth ones, and a chequered canary."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((PATIENTS, 3, 4, 4), generator=generator)
    smooth = F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")
    chequered = (torch.arange(SIZE)[:, None] + torch.arange(SIZE)).remainder(2).float().expand(3, -1, -1)
    return torch.split(smooth, 1), torch.stack([chequered[0], 1 - chequered[1], 1 - chequered[2]])[None]


def loss(model: nn.Module, patient: Tensor) -> Tensor:
    return F.l1_loss(model(patient[:, :2]), patient[:, 2:])


def clipped_gradient(model: nn.Module, patient: Tensor) -> Tensor:
    """Of one patient, as the private step clips it."""
    gradients = torch.autograd.grad(loss(model, patient), list(model.parameters()))
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    return flat * min(1.0, CLIP / (float(flat.norm()) + 1e-6))


if __name__ == "__main__":
    main()
