"""What becomes of each of a network's weights in a run: the table that gate, privacy and personal layers read.

A key is the name of one weight. A run prints the table, and its folder has it as `keys.json`, with the sites that share
what is shared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from agi_core.config.schema import Task
from agi_core.host import atomic
from agi_core.privacy.trainable import names_of

NAME = "keys.json"
FINE_TUNED = {"norms": "norms", "finetune": "all"}
"""{`personal`: the part of the network, one of `agi_core.privacy.trainable.PARTS`, that each site trains on alone}"""
_SOLVED = ("head.", "prior.")  # the last layer reads the prior's monomials and the last features


def rounds_alone(task: Task) -> int:
    """The rounds of a model that a site trains alone: those of the run, and as many more as the personal model has."""
    return task.rounds + (task.personal in FINE_TUNED)


@dataclass(frozen=True)
class KeyTable:
    """
    Attributes:
        shared: trained at the sites, averaged by the server.
        frozen: sent, and changed by nobody; a reply that changes one is refused.
        personal: those of them that each site makes its own in the end, from its own subjects; its copy stays there.
    """

    shared: tuple[str, ...]
    frozen: tuple[str, ...]
    personal: tuple[str, ...]

    @classmethod
    def of(cls, task: Task, axes: Mapping[str, int]) -> Self:
        """The table of a task whose network has these weights: {key: number of axes}."""
        trained = names_of(task.privacy.trainable if task.privacy.on else "all", axes)
        return cls(
            shared=tuple(key for key in axes if key in trained),
            frozen=tuple(key for key in axes if key not in trained),
            personal=_personal(task, axes),
        )

    def write(self, run_dir: Path, *, sites: Sequence[str]) -> None:
        """Write `keys.json`, with the sites that train in the run. Raises RunError."""
        atomic.write_json(run_dir / NAME, {"sites": list(sites), **asdict(self)})

    def __str__(self) -> str:
        parts = [f"{len(self.shared)} weight tensors are trained and averaged"]
        for keys, become in ((self.frozen, "stay as they are sent"), (self.personal, "are each site's own in the end")):
            parts += [f"{len(keys)} {become} ({_rooms(keys)})"] if keys else []
        return ", ".join(parts)


def _personal(task: Task, axes: Mapping[str, int]) -> tuple[str, ...]:
    if task.personal == "none":
        return ()
    part = FINE_TUNED.get(task.personal)
    trained = names_of(part, axes) if part else set()
    return tuple(key for key in axes if key in trained or key.startswith(_SOLVED))


def _rooms(keys: tuple[str, ...]) -> str:
    """The parts of the network that the keys are of, each once."""
    return ", ".join(dict.fromkeys(key.split(".")[0] for key in keys))
