"""What a private site of several cells gains where they share its budget by what they cost together, over equal parts.

    python -m benchmarks.cell_budgets

Each cell is a run of 10 rounds of 4 steps with a prior, with the defaults of `privacy`; no data, no training.
"""

from dataclasses import replace

from agi_core.config.schema import PrivacyConfig, Task
from agi_core.models.model_config import ModelConfig
from agi_core.privacy.plan import epsilon_of_each, planned_steps
from benchmarks.commit import commit

EPSILON, ROUNDS, LOCAL_STEPS = 8.0, 10, 4


def main() -> None:
    print(f"commit {commit()}, epsilon {EPSILON:g} of a site\n")
    print("| cells at the site | epsilon of each, equal parts | by what they cost | noise, equal parts | now | ratio |")
    print("|---|---|---|---|---|---|")
    privacy = PrivacyConfig(epsilon=EPSILON)
    for cells in (2, 4, 9, 12):
        equal, each = EPSILON / cells, epsilon_of_each(privacy, steps=(ROUNDS * LOCAL_STEPS,) * cells, with_prior=True)
        before, now = (noise_multiplier(replace(privacy, epsilon=of_each)) for of_each in (equal, each))
        row = [cells, f"{equal:.2f}", f"{each:.2f}", f"{before:.2f}", f"{now:.2f}", f"**{now / before:.2f}**"]
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def noise_multiplier(privacy: PrivacyConfig) -> float:
    """Of the training of one cell."""
    task = Task("T1,T2:PD", model=ModelConfig(prior="cubic"), rounds=ROUNDS, privacy=privacy)
    task = replace(task, training=replace(task.training, local_steps=LOCAL_STEPS))
    return planned_steps(task)[-1].noise_multiplier


if __name__ == "__main__":
    main()
