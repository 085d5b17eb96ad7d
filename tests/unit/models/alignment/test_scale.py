"""The equations of each voxel against numpy's gradient."""

import numpy as np
import pytest
import torch

from agi_core.models.alignment.edges import descriptor
from agi_core.models.alignment.scale import Scale
from tests.support.smooth_images import texture


@pytest.mark.parametrize("space", [(20, 24), (8, 20, 24)])
def test_the_matrix_is_made_of_slopes_and_the_right_side_of_differences(space: tuple[int, ...]) -> None:
    reference, source = texture(*space), texture(*space, seed=1)
    scale = Scale(reference, source, neighbours=0)
    matrix, right = scale.normal_equations(scale.at[None])
    fixed, moved = (descriptor(image)[0].numpy() for image in (reference, source))
    slopes = np.stack(np.gradient((fixed + moved) / 2, axis=tuple(range(1, len(space) + 1))))
    slopes *= np.array(space).reshape(-1, *[1] * (len(space) + 1)) / 2  # voxels per unit
    inner = tuple(slice(1, -1) for _ in space)  # at its ends numpy's gradient is one-sided
    wanted = np.einsum("ic...,jc...->ij...", slopes, slopes)[:, :, *inner]
    np.testing.assert_allclose(matrix[0, :, :, *inner], wanted, atol=1e-9)
    wanted = np.einsum("ic...,c...->i...", slopes, fixed - moved)[:, *inner]
    np.testing.assert_allclose(right[0, :, *inner], wanted, atol=1e-9)


def test_positions_outside_of_the_source_tell_nothing() -> None:
    image = texture(20, 24)
    scale = Scale(image, image, neighbours=0)
    position = scale.at[None].clone()
    position[0, 1, :, 20:] = 1.01
    matrix, right = scale.normal_equations(position)
    assert not matrix[..., 20:].any()
    assert not right[..., 20:].any()
    assert matrix[..., :20].any()


def test_a_slab_tells_about_its_middle_slice() -> None:
    """Its slope through the plane is that of the reference's neighbours; `planar` leaves that axis out."""
    slab, source = texture(3, 20, 24, detail=3), texture(3, 20, 24, detail=3, seed=1)
    scale = Scale(slab, source, neighbours=1)
    assert torch.equal(scale.edges, descriptor(slab)[:, :, 1:2])
    torch.testing.assert_close(scale.moved_edges(scale.at[None]), descriptor(source[:, :, 1:2]))
    matrix, right = scale.normal_equations(scale.at[None])
    through = (descriptor(slab)[0, :, 2] - descriptor(slab)[0, :, 0]) / 2 * 3 / 2
    torch.testing.assert_close(matrix[0, 0, 0, 0], through.square().sum(0))
    in_plane = scale.normal_equations(scale.at[None], planar=True)
    torch.testing.assert_close(in_plane, (matrix[:, 1:, 1:], right[:, 1:]))
