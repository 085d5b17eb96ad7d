"""One image moved onto another, by a motion that is known."""

import torch

from agi_core.models.model_config import ModelConfig
from agi_core.pair_alignment import moved_onto, pair_alignment
from tests.support.smooth_images import texture


def test_what_lies_on_the_second_image_comes_onto_the_first() -> None:
    fixed, other = texture(96, 88, detail=10).float(), texture(96, 88, seed=1).float()
    moving = torch.roll(1.1 - 0.9 * fixed, (5, -4), dims=(2, 3))  # another contrast
    beside = torch.roll(other, (5, -4), dims=(2, 3))
    for alignment in ("none", "affine", "dense"):
        pair = torch.cat([fixed, moving], dim=1)
        moved, imaged = moved_onto(pair_alignment(ModelConfig(alignment=alignment, neighbours=1)), pair, beside)
        inner = (..., slice(12, -12), slice(12, -12))
        torch.testing.assert_close(moved[inner], other[inner], rtol=0, atol=0.06)
        assert imaged[inner].all()
        assert not imaged[..., -3:, :].any()  # five rows left the picture
