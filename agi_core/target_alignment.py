"""The target on the reference, in training alone: for a target that was acquired in a head pose of its own.

Where no source lies in the target's pose, a loss at the target's own places asks for an average over poses, and teaches
blur. So the target is brought onto the reference by the same parameter-free alignment as the sources, without gradient,
and the loss is taken there. RegGAN (Kong et al., NeurIPS 2021) learns a registration in the loss for the same end; here
nothing is learned. Motion through the plane is not followed.
"""

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from agi_core.config.schema import Task
from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.models.alignment.sampling import inside, lattice, middle, sample
from agi_core.scenario import parse_scenario


class TargetAlignment:
    """Brings a target onto source number `reference`; `alignment` sees pairs of single slices or volumes."""

    def __init__(self, alignment: GroupAlignment, *, reference: int, neighbours: int) -> None:
        self.alignment, self.reference, self.neighbours = alignment, reference, neighbours

    @classmethod
    def of(cls, task: Task) -> Self | None:
        """The task's; None where the target stays where it is. It is of the kind that the sources' alignment is, and
        affine where they are not aligned."""
        if not task.training.align_target:
            return None
        scenario, kind = parse_scenario(task.scenario), task.model.alignment
        config = replace(task.model, alignment="affine" if kind == "none" else kind, neighbours=0)
        reference = scenario.sources.index(scenario.reference(task.reference))
        return cls(GroupAlignment(config, reference=0), reference=reference, neighbours=task.model.neighbours)

    @torch.no_grad()
    def __call__(self, sources: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The target (B, 1, *space) as it lies on the reference of the sources (B, M, *space), with neighbours
        (B, M, S, H, W), and where it was imaged there: bool (B, 1, *space)."""
        fixed = middle(sources[:, self.reference, None], self.neighbours)
        fixed = fixed[:, :, 0] if self.neighbours else fixed
        motion = self.alignment.motion(torch.cat([fixed, target], dim=1), [1])
        position = lattice(target.shape[2:], like=target) + motion
        moved = sample(target, position)
        return moved, inside(position, 0) & ((moved != 0) | (fixed == 0))
