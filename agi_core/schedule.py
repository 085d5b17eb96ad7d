"""The learning rate of each step of a run. The sites take the steps with it, and the server judges updates by it."""

import math

from agi_core.config.schema import TrainingConfig


def learning_rate(training: TrainingConfig, *, rounds: int, round: int, step: int) -> float:
    """Learning rate of local step `step` (from 0) of round `round` (from 1): linear warm-up, then cosine to zero over
    the whole run."""
    position = ((round - 1) * training.local_steps + step + 1) / (rounds * training.local_steps)
    if position < training.warmup:
        return training.learning_rate * position / training.warmup
    rest = (position - training.warmup) / max(1 - training.warmup, 1e-9)
    return (
        training.learning_rate * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0) * 0.99))
    )  # ends at 0.02 %, so that no step is idle
