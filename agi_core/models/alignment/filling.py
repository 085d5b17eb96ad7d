"""Filling in: where a source was not imaged, the brightness of the reference says what it is likely to show."""

import torch
from torch import Tensor

BINS = 32
"""The number of classes of brightness of the reference."""


def filled_in(image: Tensor, reference: Tensor, *, imaged: Tensor) -> Tensor:
    """The image where it was imaged; elsewhere its mean over the imaged voxels at which the reference is as bright.

    That mean is zero if there are no such voxels.

    Args:
        image: (B, 1, *space).
        reference: (B, 1, *space) in [0, 1].
        imaged: bool (B, 1, *space).
    """
    bins = (reference * (BINS - 1)).round().clamp(0, BINS - 1).long().flatten(1)
    weight = imaged.flatten(1).to(image.dtype)
    none = image.new_zeros(len(image), BINS)
    count, total = none.scatter_add(1, bins, weight), none.scatter_add(1, bins, weight * image.flatten(1))
    return torch.where(imaged, image, (total / count.clamp(min=1)).gather(1, bins).reshape(image.shape))
