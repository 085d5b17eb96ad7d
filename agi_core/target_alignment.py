"""The target on the reference, in training alone: for a target that was acquired in a head pose of its own.

Where no source lies in the target's pose, a loss at the target's own places asks for an average over poses, and teaches
blur. So the target is brought onto the reference by the same parameter-free alignment as the sources, without gradient,
and the loss is taken there. RegGAN (Kong et al., NeurIPS 2021) learns a registration in the loss for the same end; here
nothing is learned. Motion through the plane is not followed.
"""

from typing import Self

import torch
from torch import Tensor

from agi_core.config.schema import Task
from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.models.alignment.sampling import middle
from agi_core.pair_alignment import moved_onto, pair_alignment
from agi_core.scenario import parse_scenario


class TargetAlignment:
    """Brings a target onto source number `reference`; in 3-D a volume moves as a whole."""

    def __init__(self, alignment: GroupAlignment, *, reference: int, neighbours: int, volumetric: bool) -> None:
        self.alignment, self.reference, self.neighbours = alignment, reference, neighbours
        self.volumetric = volumetric

    @classmethod
    def of(cls, task: Task) -> Self | None:
        """The task's; None where the target stays where it is. It is of the kind that the sources' alignment is, and
        affine where they are not aligned."""
        if not task.training.align_target:
            return None
        scenario = parse_scenario(task.scenario)
        reference = scenario.sources.index(scenario.reference(task.reference))
        neighbours, volumetric = task.model.neighbours, task.model.dims == 3
        return cls(pair_alignment(task.model), reference=reference, neighbours=neighbours, volumetric=volumetric)

    def __call__(self, sources: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The target (B, 1, *space) as it lies on the reference of the sources (B, M, *space), with neighbours
        (B, M, S, H, W), and where it was imaged there: bool (B, 1, *space). In 3-D also of all slices of one volume:
        (D, M, H, W) and (D, 1, H, W)."""
        if self.volumetric and sources.dim() == 4:
            moved, imaged = self(sources.transpose(0, 1)[None], target.transpose(0, 1)[None])
            return moved[0].transpose(0, 1), imaged[0].transpose(0, 1)
        fixed = middle(sources[:, self.reference, None], self.neighbours)
        fixed = fixed[:, :, 0] if self.neighbours else fixed
        return moved_onto(self.alignment, torch.cat([fixed, target], dim=1), target)
