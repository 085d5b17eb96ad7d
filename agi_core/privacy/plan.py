"""What a privacy budget will cost, before anyone trains."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agi_core.config.schema import Task
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
    privacy, steps = task.privacy, task.rounds * task.training.local_steps
    if privacy.epsilon is None:
        raise PrivacyError("a private run needs privacy.epsilon")
    before = (planned_release(privacy),) if task.model.prior != "none" else ()
    sigma = privacy.noise_multiplier or calibrate(
        privacy.epsilon, delta=privacy.delta, lot_rate=privacy.lot_rate, steps=steps, besides=before
    )
    return *before, Steps(sigma, privacy.lot_rate, steps)


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
