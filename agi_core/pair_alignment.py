"""One image moved onto another: a target onto the reference (`agi_core.target_alignment`), an expert's image into the
pose of a blend (`agi_core.blend`). It is the alignment of the sources, for pairs of single slices or volumes: motion
through the plane of a slice is not followed."""

from dataclasses import replace

import torch
from torch import Tensor

from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.models.alignment.sampling import inside, lattice, sample
from agi_core.models.model_config import ModelConfig


def pair_alignment(model: ModelConfig) -> GroupAlignment:
    """Of the kind that the sources' alignment is, and affine where they are not aligned."""
    kind = "affine" if model.alignment == "none" else model.alignment
    return GroupAlignment(replace(model, alignment=kind, neighbours=0), reference=0)


@torch.no_grad()
def moved_onto(alignment: GroupAlignment, pair: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """An image (B, C, *space) that lies on the second of a pair (B, 2, *space), as it lies on the first, and where the
    second was imaged there: bool (B, 1, *space)."""
    fixed, moving = pair[:, :1], pair[:, 1:]
    position = lattice(pair.shape[2:], like=pair) + alignment.motion(pair, [1])
    imaged = inside(position, 0) & ((sample(moving, position) != 0) | (fixed == 0))
    return sample(image, position), imaged
