"""The smooth field on top of an affine motion: a sum of cosines, whose prior is a Gaussian process.

    v(p) = sum over k of a_k product over axes of cos(pi k_axis x_axis)             x from 0 to 1 along each axis
    a    = argmin of sum_p |E(reference)(p) - E(source)(p + u(p) + v(p))|^2 + sum over k of P_k |a_k|^2
    P_k  = P_0 exp(sum over axes of (s pi k_axis / n_axis)^2)                       n voxels along each axis

P is the precision of white noise that a Gaussian of standard deviation s has smoothed (as in Ashburner and Friston,
Human Brain Mapping 7:254, 1999). P_0 falls as the field found so far grows: a source that is not bent keeps a stiff
field, and a bent source gets a soft one. The code calls the amplitudes a `waves`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from agi_core.models.alignment.sampling import voxels_per_unit

WAVE_VOXELS, MOST_WAVES = 12, 12
"""A field has one wave per `WAVE_VOXELS` voxels of an axis and at most `MOST_WAVES`: in 2-D the cost grows with the
sixth power of their number."""
SMOOTHNESS_VOX = 8.0
"""s of the module."""
STIFFNESS = 0.005
"""P_0 of a large field, as a part of the information that all edges together give about a shift."""
LARGE_FIELD_VOX, MOST_STIFFENING = 2.5, 100.0
"""A field of this root mean square is large. For a smaller one P_0 is (`LARGE_FIELD_VOX` / root mean square)^2 times as
high, but at most `MOST_STIFFENING` times."""
LEAST_PRECISION = 1e-6
"""What is added to P_0, for images without an edge."""


def wave_counts(space: Sequence[int]) -> list[int]:
    """How many waves the field of an image of `space` has along each axis."""
    return [min(max(n // WAVE_VOXELS, 1), MOST_WAVES) for n in space]


def cosines(count: int, *, at: int, like: Tensor) -> Tensor:
    """Waves of 0, 1, ... half periods, read in the middle of `at` equal parts of an axis: (count, at)"""
    numbers, places = (torch.arange(n, dtype=like.dtype, device=like.device) for n in (count, at))
    return torch.cos(torch.pi * numbers[:, None] * (places + 0.5) / at)


def from_waves(waves: Tensor, space: Sequence[int]) -> Tensor:
    """v of the module: amplitudes (B, N, *counts) -> the field (B, N, *space)"""
    for n in space:  # each turn replaces the axis in front by one of n voxels at the end
        waves = torch.tensordot(waves, cosines(waves.shape[2], at=n, like=waves), dims=([2], [0]))
    return waves


def wave_step(matrix: Tensor, right: Tensor, waves: Tensor, *, voxels: Sequence[int]) -> Tensor:
    """The Gauss-Newton step to the most probable amplitudes, given the edges and the prior.

    Args:
        matrix: the equations of each voxel, (B, K, K, *space) at any scale, for the last K axes of the image.
        right: their right-hand side, (B, K, *space).
        waves: the amplitudes so far, (B, K, *counts).
        voxels: the size of the image at full resolution.

    Returns:
        What to add to the amplitudes: (B, K, *counts).
    """
    precision = prior_precision(matrix, waves, voxels=voxels)
    normal, right = wave_equations(matrix, right, waves.shape[2:])
    factor = torch.linalg.cholesky_ex(normal + torch.diag_embed(precision.flatten(1))).L
    return torch.cholesky_solve((right - precision * waves).flatten(1)[..., None], factor).reshape(waves.shape)


def wave_equations(matrix: Tensor, right: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The equations of the amplitudes from those of each voxel, as in `wave_step`.

    Returns:
        The matrix (B, K * waves, K * waves), with as many waves as the product of `counts`, and the right-hand side
        (B, K, *counts).
    """
    batch, axes = right.shape[:2]
    for count in counts:  # each turn replaces the axis in front by one of waves, or pairs of them, at the end
        basis = cosines(count, at=right.shape[2], like=right)
        matrix = torch.tensordot(matrix, (basis[:, None] * basis).flatten(0, 1), dims=([3], [1]))
        right = torch.tensordot(right, basis, dims=([2], [1]))
    matrix = matrix.reshape(batch, axes, axes, *[count for count in counts for _ in range(2)])
    rows, columns = range(3, matrix.dim(), 2), range(4, matrix.dim(), 2)
    return matrix.permute(0, 1, *rows, 2, *columns).reshape(batch, right[0].numel(), -1), right


def prior_precision(matrix: Tensor, waves: Tensor, *, voxels: Sequence[int]) -> Tensor:
    """P of the module for each amplitude: (B, K, *counts), from the arguments of `wave_step`.

    As long as all amplitudes are zero the field counts as large: nothing has been found yet, and that does not mean
    that there is nothing.
    """
    exponent, power = waves.new_zeros(()), waves.new_ones(())  # of each wave: that in P, and the mean of its square
    for count, n in zip(waves.shape[2:], voxels, strict=True):
        numbers = torch.arange(count, dtype=waves.dtype, device=waves.device)
        exponent = exponent[..., None] + (SMOOTHNESS_VOX * torch.pi * numbers / n).square()
        power = power[..., None] * torch.where(numbers > 0, 0.5, 1.0)
    in_voxels = voxels_per_unit(voxels[-waves.shape[1] :], like=waves)
    mean_square = ((in_voxels * waves).square() * power).flatten(1).sum(1)  # of the field so far, in voxels
    stiffening = LARGE_FIELD_VOX**2 / mean_square.clamp(min=1e-12)
    stiffening = torch.where(mean_square > 0, stiffening, 1.0).clamp(1, MOST_STIFFENING)
    information = matrix.diagonal(dim1=1, dim2=2).flatten(1, -2).sum(1)  # of all edges, about a shift along each axis
    information = (information / in_voxels.flatten().square()).mean(1)
    precision = (STIFFNESS * stiffening * information).reshape(-1, *[1] * (waves.dim() - 1)) * in_voxels.square()
    return (precision + LEAST_PRECISION) * exponent.exp()
