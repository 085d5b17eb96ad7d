"""Two experts in one request: how far apart are their predictions where a site has the sources of both?

The request's task has a scenario that names these sources alone. What it asks for is `disagreement T1:PD@T1 T2:PD@T2`:
each expert's scenario, and the reference that it was trained with. All other settings are the task's. The experts'
weights are packed together, under `0/` and `1/`.
"""

import dataclasses
from collections.abc import Sequence

from agi_core.cells import Vocabulary
from agi_core.config.schema import MisalignConfig, Task
from agi_core.errors import ProtocolError
from agi_core.protocol import DISAGREEMENT, Packed, Weights, pack, unpack
from agi_core.scenario import Scenario, parse_scenario

_COMPARED = 2


def pair_task(tasks: Sequence[Task], vocabulary: Vocabulary) -> Task:
    """The task of a request for two experts of one target: of all their sources, the last one stands as the target, so
    that it gives the grid."""
    scenarios = [parse_scenario(task.scenario) for task in tasks]
    names = [name for name in vocabulary.modalities if any(name in one.sources for one in scenarios)]
    training = dataclasses.replace(tasks[0].training, align_target=None, misalign=MisalignConfig())
    scenario = str(Scenario(tuple(names[:-1]), names[-1]))
    return dataclasses.replace(tasks[0], scenario=scenario, reference=None, training=training)


def pair_question(tasks: Sequence[Task]) -> str:
    """What such a request asks for."""
    return " ".join([DISAGREEMENT, *(f"{task.scenario}@{task.reference}" for task in tasks)])


def pair_weights(weights: Sequence[Weights]) -> Weights:
    """The weights of both in one."""
    return {f"{number}/{name}": array for number, some in enumerate(weights) for name, array in some.items()}


def read_pair(question: str, packed: Packed, task: Task) -> list[tuple[Task, Packed]]:
    """Task and weights of each expert of a request.

    Raises:
        ProtocolError, ConfigError: the request is malformed.
    """
    kind, *named = question.split(" ")
    if kind != DISAGREEMENT or len(named) != _COMPARED:
        raise ProtocolError(f"{question[:80]!r} names {len(named)} experts, and two are compared")
    weights, experts = unpack(packed), []
    for number, text in enumerate(named):
        scenario, _, reference = text.partition("@")
        expert = dataclasses.replace(task, scenario=scenario, reference=reference)
        expert.validate()
        prefix = f"{number}/"
        own = {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}
        experts.append((expert, pack(own)))
    sources = {name for expert, _ in experts for name in parse_scenario(expert.scenario).sources}
    if sources != {*parse_scenario(task.scenario).modalities}:
        raise ProtocolError(f"the experts of {question[:80]!r} do not see the modalities of {task.scenario}")
    return experts
