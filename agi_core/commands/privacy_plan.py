"""`python -m agi_core privacy-plan`: what a privacy budget allows, before anyone trains."""

import argparse

from agi_core.config.load import load_config
from agi_core.privacy.plan import plan_privacy
from agi_core.privacy.trainable import PARTS


def run(arguments: argparse.Namespace) -> None:
    """Print noise, lots and signal."""
    overrides = {"rounds": arguments.rounds, "training.local_steps": arguments.local_steps}
    names = ("epsilon", "delta", "lot_rate", "trainable")
    overrides |= {f"privacy.{name}": getattr(arguments, name) for name in names}
    task = load_config(None, overrides=overrides).task
    plan = plan_privacy(task, subjects=arguments.subjects, target_epsilon=arguments.epsilon)
    prv = f"{plan.epsilon:.2f} by PRV, " if plan.epsilon < plan.epsilon_rdp else "too many steps for PRV, "
    print(
        f"{arguments.subjects} training subjects, {task.rounds} rounds of {task.training.local_steps} steps,"
        f" epsilon {arguments.epsilon:g} at delta {task.privacy.delta:g}\n\n"
        f"  noise multiplier   {plan.noise_multiplier:.3f}\n"
        f"  lot size           {plan.lot_size:.1f} expected ({task.privacy.lot_rate:g} of the subjects)\n"
        f"  steps              {plan.steps}\n"
        f"  epsilon            {prv}{plan.epsilon_rdp:.2f} by RDP\n\n"
        "noise over signal     parameters   one step   whole run"
    )
    for part in plan.parts:
        print(f"  {part.part:<20}{part.parameters:>10,}{part.per_step:>11.1f}{part.whole_run:>12.2f}")
    trained = plan.trained.part
    print(f"\ntrained: {trained} ({PARTS[trained]}); signal over noise, whole run: {plan.signal_to_noise:.2f}")
    print(plan.advice)
