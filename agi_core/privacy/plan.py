"""What a privacy budget will cost, before anyone trains."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from agi_core.config.schema import PrivacyConfig, Task
from agi_core.errors import PrivacyError
from agi_core.models.agi_net import build_model
from agi_core.privacy.accounting import Steps, calibrate, epsilon, epsilon_rdp
from agi_core.privacy.patient_sgd import Mechanism
from agi_core.privacy.private_prior import planned_release
from agi_core.privacy.trainable import PARTS, parameters_of
from agi_core.scenario import parse_scenario


@dataclass(frozen=True)
class NoiseOfPart:
    """A part of the model (`privacy.trainable`) and its noise over its signal (`Mechanism.noise_over_signal`), in one
    step and in the sum of all."""

    part: str
    parameters: int
    per_step: float
    whole_run: float


@dataclass(frozen=True)
class PrivacyPlan:
    """What one site of N subjects needs and gets: sigma, the expected lot q N, all its steps, and their epsilon.

    `trained` is the part that the task trains. `parts` are all parts that it could train, the largest first.
    """

    noise_multiplier: float
    lot_size: float
    steps: int
    epsilon: float
    epsilon_rdp: float
    trained: NoiseOfPart
    parts: Sequence[NoiseOfPart]

    @property
    def signal_to_noise(self) -> float:
        """Signal over noise of the trained part in the whole run, at best: all subjects agree and all are clipped."""
        return 1 / self.trained.whole_run

    @property
    def advice(self) -> str:
        """One sentence about what can be learned under this noise, and what would help."""
        if self.signal_to_noise >= 1:
            return f"Over the run the signal in the trained part ({PARTS[self.trained.part]}) can outweigh the noise."
        if smaller := [part.part for part in self.parts if part.whole_run <= 1]:
            return (
                f"Noise outweighs what this part can learn: train privacy.trainable={smaller[0]} of a model that was"
                " pre-trained on public data."
            )
        return (
            "Noise outweighs what even a small part can learn: more subjects or a larger epsilon are needed; averaging"
            " H sites divides the noise by the square root of H."
        )


def planned_steps(task: Task) -> tuple[Steps, ...]:
    """All that a private run of the task releases of its training subjects: the prior's step where it has a prior, and
    last its training, with the noise that the budget asks for where the task names none.

    Raises:
        PrivacyError: there is no budget, or it cannot be kept.
    """
    steps = task.rounds * task.training.local_steps
    return _planned(task.privacy, steps=steps, with_prior=task.model.prior != "none")


def _planned(privacy: PrivacyConfig, *, steps: int, with_prior: bool) -> tuple[Steps, ...]:
    if privacy.epsilon is None:
        raise PrivacyError("a private run needs privacy.epsilon")
    before = (planned_release(privacy),) if with_prior else ()
    sigma = privacy.noise_multiplier or calibrate(
        privacy.epsilon, delta=privacy.delta, lot_rate=privacy.lot_rate, steps=steps, besides=before
    )
    return *before, Steps(sigma, privacy.lot_rate, steps)


@lru_cache(maxsize=64)
def epsilon_of_each(privacy: PrivacyConfig, *, steps: tuple[int, ...], with_prior: bool) -> float:
    """The epsilon with which each of several private runs over the same subjects is planned, so that all together cost
    97 to 99 % of the budget: more than its equal part, because what runs cost adds up by about the root of its squares.
    Its equal part where the noise is given.

    Args:
        steps: of each run, in ascending order.
        with_prior: each run releases a step of its prior, too.

    Raises:
        PrivacyError: there is no budget, or it cannot be kept.
    """
    if privacy.epsilon is None:
        raise PrivacyError("a private run needs privacy.epsilon")
    if len(steps) == 1:
        return privacy.epsilon
    equal = privacy.epsilon / len(steps)
    guess: float = privacy.epsilon / len(steps) ** 0.58
    for _ in range(6):  # together they cost nearly in proportion to each
        each = replace(privacy, epsilon=guess)
        history = [one for count in steps for one in _planned(each, steps=count, with_prior=with_prior)]
        spent = epsilon(history, delta=privacy.delta) / privacy.epsilon
        if 0.97 <= spent <= 0.99:
            return guess
        guess *= 0.98 / spent
        if not equal < guess < privacy.epsilon:  # the noise is given, and its cost does not follow
            break
    return equal


def plan_privacy(task: Task, *, subjects: int, target_epsilon: float) -> PrivacyPlan:
    """The plan of a task at a site with so many training subjects; noise is calibrated for all rounds.

    Raises:
        PrivacyError: the budget cannot be kept.
    """
    history = planned_steps(replace(task, privacy=replace(task.privacy, epsilon=target_epsilon)))
    sigma, rate, steps = history[-1]
    mechanism, delta = Mechanism(sigma, task.privacy.max_grad_norm, rate, subjects), task.privacy.delta
    model = build_model(task.model, sources=len(parse_scenario(task.scenario).sources))

    def noise_of(part: str) -> NoiseOfPart:
        parameters = sum(parameter.numel() for parameter in parameters_of(part, model).values())
        one, all_steps = (mechanism.noise_over_signal(parameters=parameters, steps=count) for count in (1, steps))
        return NoiseOfPart(part, parameters, per_step=one, whole_run=all_steps)

    parts = [part for part in PARTS if part != "adapters" or task.model.adapters]
    return PrivacyPlan(
        noise_multiplier=sigma,
        lot_size=rate * subjects,
        steps=steps,
        epsilon=epsilon(history, delta=delta),
        epsilon_rdp=epsilon_rdp(history, delta=delta),
        trained=noise_of(task.privacy.trainable),
        parts=sorted(map(noise_of, parts), key=lambda part: -part.parameters),
    )
