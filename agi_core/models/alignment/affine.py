"""The affine part of a motion: a search over whole shifts, then Gauss-Newton steps (Lucas and Kanade, IJCAI 1981).

    u(p) = theta [1, p]

theta (B, N, 1 + N) holds a shift in its first column, and rotation, scale and shear about the image's centre in the
others. A global motion has the shift alone.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from agi_core.models.alignment.sampling import vector

SEARCH_RADIUS = 2
"""The search tries shifts of up to so many voxels along each axis."""
SHARPNESS = 20.0
"""The factor on the correlations in the soft-argmax."""
RIDGE, LEAST_RIDGE = 1e-3, 1e-6
"""What is added to the diagonal of the affine fit: a part of the diagonal itself, and a constant for images without an
edge."""


def affine_basis(at: Tensor) -> Tensor:
    """[1, p] of positions: (N, *space) -> (1 + N, *space)"""
    return torch.cat([torch.ones_like(at[:1]), at])


def affine_motion(theta: Tensor, at: Tensor) -> Tensor:
    """u of the module: theta (B, N, 1 + N) at positions (N, *space) -> motion (B, N, *space)"""
    return (theta @ affine_basis(at).flatten(1)).reshape(-1, *at.shape)


def best_shift(a: Tensor, b: Tensor) -> Tensor:
    """The shift of b against a, both (B, C, *space) -> (B, N): the mean of all shifts of whole voxels within the search
    radius, each weighted by the softmax of its correlation (soft-argmax)."""
    space = a.shape[2:]
    radii = [min(SEARCH_RADIUS, n // 6) for n in space]
    shifts = list(product(*(range(-radius, radius + 1) for radius in radii)))
    padded = F.pad(b, [radius for radius in reversed(radii) for _ in range(2)])
    products = []
    for shift in shifts:
        window = padded
        for axis, (step, radius, n) in enumerate(zip(shift, radii, space, strict=True), start=2):
            window = window.narrow(axis, radius + step, n)
        products.append((a * window).flatten(1).sum(1))
    norm = (a.square().flatten(1).sum(1) * b.square().flatten(1).sum(1)).sqrt()[:, None]
    probability = torch.softmax(SHARPNESS * torch.stack(products, dim=1) / (norm + 1e-12), dim=1)
    steps = [torch.arange(-radius, radius + 1, dtype=a.dtype, device=a.device) for radius in radii]
    return probability @ (2 * torch.cartesian_prod(*steps) / vector(space, like=a))


def affine_step(matrix: Tensor, right: Tensor, basis: Tensor) -> Tensor:
    """The Gauss-Newton step of theta, or of its first K columns: ridge regression over the equations of all voxels.

    matrix (B, N, N, *space), right (B, N, *space) and the first K of `affine_basis` (K, *space) -> (B, N, K)
    """
    pairs = (basis[:, None] * basis).flatten(0, 1).flatten(1)  # (K K, voxels)
    batch, axes, terms = len(right), right.shape[1], len(basis)
    normal = (matrix.flatten(3) @ pairs.T).reshape(batch, axes, axes, terms, terms).transpose(2, 3)
    normal = normal.reshape(batch, axes * terms, axes * terms)
    ridge = torch.diag_embed(RIDGE * normal.diagonal(dim1=1, dim2=2) + LEAST_RIDGE)
    # Without a check, for which a GPU would wait: the ridge leaves no matrix singular.
    solution: Tensor = torch.linalg.solve_ex(normal + ridge, (right.flatten(2) @ basis.flatten(1).T).flatten(1)).result
    return solution.reshape(batch, axes, terms)
