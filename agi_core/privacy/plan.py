"""What a privacy budget will cost, before anyone trains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agi_core.config import Task
from agi_core.models.agi_net import build_model
from agi_core.privacy.accounting import Steps, calibrate, epsilon, epsilon_rdp


@dataclass(frozen=True)
class NoiseOfPart:
    """A named part of the model and its noise: norm of the noise over the largest norm that one step's mean gradient
    can have, in one step (`per_step`) and in the sum of all steps (`whole_run`: signal adds up, noise by its root).

        per_step = sigma sqrt(parameters) / (q N)        whole_run = per_step / sqrt(steps)
    """

    name: str
    parameters: int
    per_step: float
    whole_run: float


@dataclass(frozen=True)
class PrivacyPlan:
    """What one site of N subjects needs and gets: sigma, the expected lot q N, all its steps, and their epsilon."""

    noise_multiplier: float
    lot_size: float
    steps: int
    epsilon: float
    epsilon_rdp: float
    parts: Sequence[NoiseOfPart]

    @property
    def advice(self) -> str:
        """One sentence."""
        whole, *_, smallest = (part.whole_run for part in self.parts)
        if whole <= 1:
            return "All of the model can be trained: over the run the signal can outweigh the noise."
        if smallest <= 1:
            return (
                "Noise outweighs what the whole model can learn: start from a model that was trained without privacy on"
                " public or synthetic data and train a small part, or use larger lots, fewer steps, more subjects."
            )
        return (
            "Noise outweighs what even a small part can learn: more subjects or a larger epsilon are needed; averaging"
            " H sites divides the noise by the square root of H."
        )


def plan_privacy(task: Task, *, subjects: int, target_epsilon: float) -> PrivacyPlan:
    """The plan of a task at a site with so many training subjects; noise is calibrated for all rounds.

    Raises:
        PrivacyError: the budget cannot be kept.
    """
    delta, rate = task.privacy.delta, task.privacy.lot_rate
    steps = task.rounds * task.training.local_steps
    sigma = calibrate(target_epsilon, delta=delta, lot_rate=rate, steps=steps)
    history = [Steps(sigma, rate, steps)]

    def noise_of(name: str, parameters: int) -> NoiseOfPart:
        per_step = sigma * math.sqrt(parameters) / (rate * subjects)
        return NoiseOfPart(name, parameters, per_step, per_step / math.sqrt(steps))

    return PrivacyPlan(
        noise_multiplier=sigma,
        lot_size=rate * subjects,
        steps=steps,
        epsilon=epsilon(history, delta=delta),
        epsilon_rdp=epsilon_rdp(history, delta=delta),
        parts=[noise_of(name, count) for name, count in _parts(task).items()],
    )


def _parts(task: Task) -> dict[str, int]:
    """Parameters of the task's model with two sources, of its last decoder block and head, and of norms and biases."""
    named = dict(build_model(task.model, sources=2).named_parameters())
    last = f"decoder.{len(task.model.widths) - 2}."
    return {
        "whole model": sum(p.numel() for p in named.values()),
        "last block and head": sum(p.numel() for name, p in named.items() if name.startswith((last, "head."))),
        "norms and biases": sum(p.numel() for p in named.values() if p.dim() == 1),
    }
