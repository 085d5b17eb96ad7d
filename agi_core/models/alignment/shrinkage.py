"""Shrinkage: a motion that is no larger than the noise of its estimation is taken for none.

    u = u max(0, 1 - (noise^2 / mean |u|^2)^2)

An estimate is never exactly zero, even where nothing moved. Without shrinkage, the interpolation would blur sources
that already lie on the reference. This is the estimator of James and Stein (1961) with one more square, which changes
large motions less.
"""

from collections.abc import Sequence

from torch import Tensor

from agi_core.models.alignment.sampling import vector, voxels_per_unit

AFFINE_NOISE_VOX, FIELD_NOISE_VOX, THROUGH_PLANE_NOISE_VOX = 0.35, 0.4, 0.2
"""The noise of the estimation, as a root mean square: of an affine motion in the plane, of a smooth field, and of a
slab through its plane, in slices. Of training subjects of `ixi_like_registered`, where nothing moved, a tenth of the
estimates is above 0.26, 0.20 and 0.15."""


def shrunk(motion: Tensor, *, voxels: Sequence[int], neighbours: int, noise_vox: float) -> Tensor:
    """A motion (B, N, *space) times the factor of the module, one factor per sample.

    A motion of slabs has two factors, one in the plane and one through it.

    Args:
        voxels: the size of the sources along each axis, for slabs with their number of slices.
        neighbours: above 0 for slabs.
        noise_vox: the noise in voxels, for slabs that in the plane.
    """
    squares = (motion * voxels_per_unit(voxels, like=motion)).square().flatten(2).mean(2)  # (B, N), in voxels
    through = min(neighbours, 1)  # how many axes run through the plane
    squares[:, through:] = squares[:, through:].sum(1, keepdim=True)
    noise = vector([THROUGH_PLANE_NOISE_VOX] * through + [noise_vox] * (squares.shape[1] - through), like=squares)
    kept = (1 - (noise**2 / squares.clamp(min=1e-6)).square()).clamp(min=0)
    return motion * kept.reshape(*kept.shape, *[1] * (motion.dim() - 2))
