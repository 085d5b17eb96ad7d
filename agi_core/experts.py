"""Several experts of one target in one request: how far are two apart, or how good is a blend (`agi_core.blend`)?

The request's task is that of a cell, and all its settings but the reference hold for each expert. What it asks for
names the experts, each with the reference that it was trained with, and in a blend with its weight:

    disagreement T1:PD@T1 T2:PD@T2
    blend T1:PD@T1*0.25 T2:PD@T2*0.75

The experts' weights are packed together, under `0/`, `1/` and so on.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from agi_core.cells import Vocabulary
from agi_core.config.schema import MisalignConfig, Task
from agi_core.errors import ProtocolError
from agi_core.protocol import BLEND, DISAGREEMENT, Packed, Weights, pack, unpack
from agi_core.scenario import Scenario, parse_scenario

_COMPARED = 2


def pair_task(tasks: Sequence[Task], vocabulary: Vocabulary) -> Task:
    """The task of a request for two experts of one target: of all their sources, the last one stands as the target, so
    that it gives the grid."""
    scenarios = [parse_scenario(task.scenario) for task in tasks]
    names = [name for name in vocabulary.modalities if any(name in one.sources for one in scenarios)]
    return cell_task(tasks, Scenario(tuple(names[:-1]), names[-1]))


def cell_task(tasks: Sequence[Task], cell: Scenario, *, pose: str | None = None) -> Task:
    """The task of a request for experts on subjects who have all of a cell's modalities. The image of a blend lies in
    the pose of source `pose`."""
    training = dataclasses.replace(tasks[0].training, align_target=None, misalign=MisalignConfig())
    return dataclasses.replace(tasks[0], scenario=str(cell), reference=pose, training=training)


def pair_question(tasks: Sequence[Task]) -> str:
    """What a request for two experts asks for."""
    return " ".join([DISAGREEMENT, *map(_name, tasks)])


def blend_question(tasks: Sequence[Task], weights: Sequence[float]) -> str:
    """What a request for a blend asks for; `weights` are those of the experts in it."""
    return " ".join([BLEND, *(f"{_name(task)}*{weight}" for task, weight in zip(tasks, weights, strict=True))])


def _name(task: Task) -> str:
    scenario = parse_scenario(task.scenario)
    return f"{scenario}@{scenario.reference(task.reference)}"


def packed_together(weights: Sequence[Weights]) -> Weights:
    """The weights of all experts in one."""
    return {f"{number}/{name}": array for number, some in enumerate(weights) for name, array in some.items()}


def read_pair(question: str, packed: Packed, task: Task) -> list[tuple[Task, Packed]]:
    """Task and weights of each expert of a request for two.

    Raises:
        ProtocolError, ConfigError: the request is malformed.
    """
    kind, *named = question.split(" ")
    if kind != DISAGREEMENT or len(named) != _COMPARED:
        raise ProtocolError(f"{question[:80]!r} names {len(named)} experts, and two are compared")
    experts = _read(named, packed, task)
    sources = {name for expert, _ in experts for name in parse_scenario(expert.scenario).sources}
    if sources != {*parse_scenario(task.scenario).modalities}:
        raise ProtocolError(f"the experts of {question[:80]!r} do not see the modalities of {task.scenario}")
    return experts


def read_blend(question: str, packed: Packed, task: Task) -> list[tuple[Task, Packed, float]]:
    """Task, weights and weight in the blend of each expert of a request for a blend of the task's cell.

    Raises:
        ProtocolError, ConfigError: the request is malformed.
    """
    kind, *named = question.split(" ")
    experts = _read([text.partition("*")[0] for text in named], packed, task)
    try:
        weights = [float(text.partition("*")[2]) for text in named]
    except ValueError:
        weights = []
    cell, scenarios = parse_scenario(task.scenario), [parse_scenario(expert.scenario) for expert, _ in experts]
    if kind != BLEND or not math.isclose(sum(weights), 1, abs_tol=1e-3) or not all(0 < one <= 1 for one in weights):
        raise ProtocolError(f"{question[:80]!r} is no blend: the weights of its experts are no parts of 1")
    if not all(one.target == cell.target and {*one.sources} <= {*cell.sources} for one in scenarios):
        raise ProtocolError(f"the experts of {question[:80]!r} do not make {task.scenario}")
    return [(expert, its, weight) for (expert, its), weight in zip(experts, weights, strict=True)]


def _read(named: Iterable[str], packed: Packed, task: Task) -> list[tuple[Task, Packed]]:
    weights, experts = unpack(packed), []
    for number, text in enumerate(named):
        scenario, _, reference = text.partition("@")
        expert = dataclasses.replace(task, scenario=scenario, reference=reference)
        expert.validate()
        prefix = f"{number}/"
        own = {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}
        experts.append((expert, pack(own)))
    return experts
