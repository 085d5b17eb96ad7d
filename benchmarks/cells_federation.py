"""Federated averaging over the product's own local loop, each round kept in a file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from agi_core.config.schema import Task
from agi_core.data.datasets import Draw
from agi_core.host import atomic
from agi_core.host.tensor_file import open_tensors
from agi_core.scenario import Scenario
from agi_core.training import train_round
from benchmarks.cells_network import is_held


@dataclass(frozen=True)
class Member:
    """A site in a federated training: its batches, its steps in each round, its weight, and the cells it trains."""

    name: str
    draw: Draw
    steps: int
    subjects: int
    cells: frozenset[Scenario]


def federate(module: nn.Module, members: Sequence[Member], *, task: Task, path: Path, per_key: bool = False) -> None:
    """Federated averaging in place, from the round that `path` holds. With `per_key` a weight is averaged over the
    members that train it; one that nobody trains stays."""
    for round in range(_load(module, path) + 1, task.rounds + 1):
        start = {key: value.clone() for key, value in module.state_dict().items()}
        replies: list[dict[str, Tensor]] = []
        for member in members:
            module.load_state_dict(start)
            training = replace(task.training, local_steps=member.steps)
            train_round(module, member.draw, task=replace(task, training=training), site=member.name, round=round)
            replies.append({key: value.clone() for key, value in module.state_dict().items()})
        for key, value in module.state_dict().items():
            held = [
                (reply[key], member.subjects)
                for reply, member in zip(replies, members, strict=True)
                if not per_key or is_held(key, {*member.cells})
            ]
            total = sum(count for _, count in held)
            value.copy_(
                sum((reply * (count / total) for reply, count in held), torch.zeros_like(value)) if held else start[key]
            )
        content = {key: value.contiguous() for key, value in module.state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, save(content, metadata={"round": str(round)}))


def _load(module: nn.Module, path: Path) -> int:
    """Take over the weights of a file, and return their round; 0 without a file."""
    if not path.is_file():
        return 0
    with open_tensors(path) as file:
        module.load_state_dict({key: torch.from_numpy(file.get_tensor(key)) for key in file.keys()})  # noqa: SIM118
        return int(file.metadata()["round"])
