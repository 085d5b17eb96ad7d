"""The study that a request belongs to, where that is a run over a vocabulary (`agi_core.cells`).

Each cell of such a run has a run and a task of its own. A request about a cell also names the whole, so that a person
at a site agrees once, to the whole, and a site can tell what belongs to it. What the cell's run is called follows from
the whole: so a yes covers each cell once, with its rounds and its epsilon, not as often as somebody makes up a name.
"""

import json
from dataclasses import dataclass, replace
from typing import Self

from agi_core.cells import is_vocabulary, parse_vocabulary
from agi_core.config.load import read_task
from agi_core.config.schema import MisalignConfig, Task
from agi_core.errors import ProtocolError
from agi_core.protocol import BLEND, DISAGREEMENT, EVALUATE, Request
from agi_core.run.json_objects import JsonObject
from agi_core.scenario import Scenario, parse_scenario


@dataclass(frozen=True)
class WholeStudy(JsonObject):
    """A run over a vocabulary: what the sites call it, and the JSON of its task, whose scenario is the vocabulary."""

    run: str
    task: str

    @classmethod
    def of(cls, request: Request) -> Self:
        """The study of a request that names one. Raises ProtocolError where it cannot be read."""
        try:
            return cls.from_json(json.loads(request.study))
        except (ValueError, TypeError, RecursionError) as error:
            raise ProtocolError(f"the study of the request cannot be read: {error}") from None

    @property
    def text(self) -> str:
        """As a request carries it."""
        return json.dumps(self.to_json(), sort_keys=True)

    def run_of(self, cell: Scenario) -> str:
        """What the sites call the run of a cell."""
        return f"{self.run}/{cell}"

    def check_run(self, request: Request, task: Task) -> None:
        """Raise ProtocolError unless the request comes in the name of the run of the task's cell. A question about
        several experts comes in the name of any cell's: it is that of the first of them."""
        several = request.action == EVALUATE and request.subjects.startswith((DISAGREEMENT, BLEND))
        whole, cell = parse_vocabulary(read_task(self.task).scenario), parse_scenario(task.scenario)
        if request.run_id not in map(self.run_of, whole.cells if several else [cell]):
            raise ProtocolError(f"a request about {cell} comes in the name of another run than that of this cell")

    def check_cell(self, task: Task) -> None:
        """Raise ProtocolError unless the task is that of one of the study's cells: its scenario is a cell, its steps
        and its epsilon are at most the study's, and all else that was not chosen by the sites' scans is the study's."""
        whole = read_task(self.task)
        training, misalign = task.training, (whole.training.misalign, MisalignConfig())
        as_whole = replace(
            task,
            scenario=whole.scenario,
            reference=whole.reference,
            training=replace(
                training,
                local_steps=whole.training.local_steps,
                align_target=whole.training.align_target,
                misalign=whole.training.misalign,
            ),
            privacy=replace(task.privacy, epsilon=whole.privacy.epsilon),
        )
        if not (
            is_vocabulary(whole.scenario)
            and parse_scenario(task.scenario) in parse_vocabulary(whole.scenario).cells
            and as_whole == whole
            and training.misalign in misalign
            and training.local_steps <= whole.training.local_steps
            and task.privacy.on == whole.privacy.on
            and (task.privacy.epsilon or 0) <= (whole.privacy.epsilon or 0)
        ):
            raise ProtocolError(f"a request about {task.scenario} is none of the study over {whole.scenario} it names")
