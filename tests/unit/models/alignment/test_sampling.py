"""Sampling against torch.roll."""

import pytest
import torch

from agi_core.models.alignment.sampling import inside, lattice, middle, sample, voxels_per_unit
from tests.support.smooth_images import texture


@pytest.mark.parametrize("space", [(64, 56), (32, 36, 40)])
def test_sampling_is_a_roll_inside_and_nothing_at_zero(space: tuple[int, ...]) -> None:
    dims, image = len(space), texture(*space)
    at = lattice(space, like=image)
    torch.testing.assert_close(sample(image, at[None]), image, rtol=0, atol=1e-12)
    ahead = 2 * torch.tensor([3.0, -2.0, 1.0][:dims], dtype=torch.float64) / torch.tensor(space)
    inner = (slice(None), slice(None), *[slice(4, -4)] * dims)
    rolled = torch.roll(image, [-3, 2, -1][:dims], list(range(2, 2 + dims)))
    read = sample(image, (at + ahead.reshape(-1, *[1] * dims))[None])
    torch.testing.assert_close(read[inner], rolled[inner], rtol=0, atol=1e-12)


def test_a_unit_is_half_the_image() -> None:
    motion = torch.zeros(1, 2, 6, 8)
    assert voxels_per_unit((6, 8), like=motion).tolist() == [[[3.0]], [[4.0]]]


def test_the_middle_slice_and_the_inside_of_a_slab() -> None:
    slab = torch.arange(5.0).reshape(1, 1, 5, 1, 1)
    assert middle(slab, 2).tolist() == [[[[[2.0]]]]]
    assert middle(slab, 0) is slab
    position = torch.tensor([[-1.5, 0.0, 0.0], [0.0, 1.0, 1.1], [0.0, 0.0, 1.0]]).reshape(1, 3, 1, 1, 3)
    assert inside(position, 1).flatten().tolist() == [True, True, False]  # beyond the slab's last slice it goes on
    assert inside(position, 0).flatten().tolist() == [False, True, False]
