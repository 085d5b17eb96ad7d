"""Group alignment: every source is brought onto the reference before the network mixes them.

Not in the paper, which rolls groups inside the network; `docs/alignment.md` says what led here. For each sample and
source, with E the edges that a contrast shows, whichever side of them is the brighter one:

    E(x)  = (gy^2 - gx^2, 2 gy gx) / (gy^2 + gx^2 + noise)                 direction in the plane, angle doubled
    u     = soft-argmax over whole shifts d of <E(reference), E(source(p + d))>               coarse to fine, then
    u     = argmin over smooth u of sum_p |E(reference)(p) - E(source)(p + u(p))|^2           by Gauss-Newton
    u     = u max(0, 1 - noise^2 / mean |u|^2)                                              what is no motion is none
    out   = source(p + u(p))                                                                  interpolated once

E is a normalised gradient field (Haber and Modersitzki, MICCAI 2006) made to be subtracted, the argmin is Lucas and
Kanade's (IJCAI 1981), and u is constant, affine, or affine plus windows. All of it is closed form: no parameter that
private training pays for or federated averaging mixes, no statistic of other samples. It is estimated without
gradients, in float32 at least.

Motions are in torch's normalised coordinates, where a volume spans (-1, 1) along each axis at any scale, one component
per axis in the order of the axes. Shape letter `N`: spatial axes, 2 or 3.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agi_core.models.model_config import ModelConfig
from agi_core.models.resunet import AVERAGE_POOL

SEARCH_STRIDES = (8, 4)
SEARCH_RADIUS = 2
"""In voxels of each stride: the search reaches 16 and then 8 voxels further along an axis of at least 96."""
SHARPNESS = 20.0
"""The soft-argmax's, in units of 1 / correlation."""
REFINE_STRIDES = (4, 2, 2, 1, 1)
"""One Gauss-Newton step each for the affine part."""
DENSE_STEPS = ((2, 6), (2, 4), (1, 6), (1, 4), (1, 4))
"""And then each for the windows: stride, and voxels between windows at it; a window is three times as long."""
FEWEST = 12
"""An axis is never pooled to fewer voxels than this."""
NOISE = 0.1
"""Of the mean squared gradient: edges far below it do not count."""
RIDGE = 1e-3
"""Added to the diagonal of the affine fit, as a part of it."""
TINY = 1e-6
"""Added to every diagonal, for images without an edge."""
FOUND, FOUND_THROUGH, FOUND_BENDING = 0.2, 0.15, 0.5
"""Motion that is found where there is none: root mean square in voxels, of a slab in slices through the plane, and of
what the windows add (`ixi_like_registered`, training subjects: medians 0.09, 0.10 and 0.47, a tenth above 0.14, 0.16
and 0.55)."""
STIFFNESS = 0.5
"""Pull of a window to no further motion, in units of what the edges of an average window tell."""


class GroupAlignment(nn.Module):
    """Brings every source onto source number `reference`, as in the module's equations; it holds no parameters.

    With `config.neighbours` n the sources are slabs of 2n + 1 slices and come back as slices: the middle one of the
    reference, and of the others what lies there, through the plane too.
    """

    def __init__(self, config: ModelConfig, *, reference: int) -> None:
        super().__init__()
        self.kind, self.neighbours, self.reference = config.alignment, config.neighbours, reference

    def forward(self, sources: Tensor) -> Tensor:
        """Sources (B, M, *space), with neighbours (B, M, S, H, W) -> (B, M, *space), with neighbours (B, M, H, W).

        A moved source is zero where it was not imaged. An empty batch gives an empty result.
        """
        aligned = list(self._middle(sources).unbind(1))
        others = [m for m in range(len(aligned)) if m != self.reference]
        if others and len(sources):
            position = lattice(aligned[0].shape[1:], like=sources) + self._motion(sources, others)
            imaged = self._inside(position)
            moved = sample(sources[:, others].flatten(0, 1)[:, None], position) * imaged
            for number, m in enumerate(others):
                aligned[m] = moved[number :: len(others), 0]
        result = torch.stack(aligned, dim=1)
        return result[:, :, 0] if self.neighbours else result

    def offsets(self, sources: Tensor) -> Tensor:
        """Predicted offsets in voxels: (B, M, N, *space), with neighbours (B, M, 3, H, W) for (slices, rows, columns).

        `aligned(p) = source(p + offset(p))`; zero for the reference.
        """
        space = self._middle(sources).shape[2:]
        offsets = sources.new_zeros(*sources.shape[:2], len(space), *space)
        others = [m for m in range(sources.shape[1]) if m != self.reference]
        if others and len(sources):
            voxels = torch.tensor(sources.shape[2:], device=sources.device) / 2
            motion = self._motion(sources, others) * voxels.reshape(-1, *[1] * len(space))
            offsets[:, others] = motion.reshape(len(sources), len(others), *motion.shape[1:]).to(offsets.dtype)
        return offsets[:, :, :, 0] if self.neighbours else offsets

    @torch.no_grad()
    def _motion(self, sources: Tensor, others: Sequence[int]) -> Tensor:
        """u of every source in `others`: (B * len(others), N, *space), of depth 1 with neighbours."""
        images = sources.to(torch.promote_types(sources.dtype, torch.float32))
        moving = images[:, others].flatten(0, 1)[:, None]
        fixed = images[:, [self.reference] * len(others)].flatten(0, 1)[:, None]
        theta = fixed.new_zeros(len(fixed), fixed.dim() - 2, fixed.dim() - 1)
        with torch.autocast(images.device.type, enabled=False):
            scales = {s: Scale(descriptor(pooled(fixed, s)), pooled(moving, s)) for s in (8, 4, 2, 1)}
            for stride in SEARCH_STRIDES:
                edges, moved, _ = scales[stride].compare(theta)
                theta[..., 0] += best_shift(self._middle(edges), self._middle(moved))
            for stride in REFINE_STRIDES:
                matrix, right = self._normal_equations(*scales[stride].compare(theta))
                basis = with_one(lattice(right.shape[2:], like=right))[: 1 if self.kind == "global" else None]
                theta[..., : len(basis)] += affine_step(matrix, right, basis)
            space = self._middle(fixed).shape[2:]
            affine = affine_motion(theta, lattice(space, like=fixed))
            affine = self._shrunk(affine, found=FOUND, voxels=images.shape[2:])
            if self.kind != "dense":
                return affine
            residual = torch.zeros_like(affine)
            plane = slice(1 if self.neighbours else 0, None)  # few slices tell too little of each window's depth
            for stride, window in DENSE_STEPS:
                matrix, right = self._normal_equations(*scales[stride].compare(theta, residual))
                residual[:, plane] += resize(
                    window_step(matrix[:, plane, plane], right[:, plane], window=window), space
                )
            return affine + self._shrunk(residual, found=FOUND_BENDING, voxels=images.shape[2:])

    def _shrunk(self, motion: Tensor, *, found: float, voxels: Sequence[int]) -> Tensor:
        """Less of a motion (B, N, *space) that is hardly above what is found where nothing moved, and nothing of one
        below: times max(0, 1 - noise^2 / mean square), as James and Stein's estimator (1961), so that sources that lie
        on the reference are not blurred by an interpolation. `found`: the noise in the plane, in voxels; `voxels`: of
        the sources, along each axis."""
        half = motion.new_tensor(list(voxels)).reshape(-1, *[1] * (motion.dim() - 2)) / 2
        squares = (motion * half).square().flatten(2).mean(2)  # (B, N), in voxels
        through = min(self.neighbours, 1)
        squares[:, through:] = squares[:, through:].sum(1, keepdim=True)
        noise = squares.new_tensor([FOUND_THROUGH] * through + [found] * (squares.shape[1] - through))
        kept = (1 - noise**2 / squares.clamp(min=1e-12)).clamp(min=0)
        return motion * kept.reshape(*kept.shape, *[1] * (motion.dim() - 2))

    def _normal_equations(self, edges: Tensor, moved: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Gauss-Newton's matrix (B, N, N, *space) and right-hand side (B, N, *space) of every voxel by itself."""
        mean = (edges + moved) / 2
        shown = [mean] * (mean.dim() - 2)
        if self.neighbours:
            shown[0] = edges  # the reference's, where mirrored slices have no slope, however the source has been moved
        slopes = [
            self._middle(central_difference(x, axis=axis)) * (x.shape[axis] / 2)
            for axis, x in enumerate(shown, start=2)
        ]
        slope = torch.stack(slopes, dim=1)  # (B, N, 2, *space), per unit of the normalised coordinates
        weight = self._inside(self._middle(position))
        difference = self._middle(edges - moved)[:, None]
        matrix = (slope[:, :, None] * slope[:, None]).sum(3)
        return matrix * weight[:, None], (slope * difference).sum(2) * weight

    def _middle(self, x: Tensor) -> Tensor:
        """With neighbours the middle slice of (B, C, S, H, W), of depth 1; else x."""
        return x.narrow(2, self.neighbours, 1) if self.neighbours else x

    def _inside(self, position: Tensor) -> Tensor:
        """(B, N, *space) -> bool (B, 1, *space): within the image; a slab goes on beyond its last slices."""
        axes = position[:, 1:] if self.neighbours else position
        return (axes.abs() <= 1).all(dim=1, keepdim=True)


class Scale(NamedTuple):
    """One scale of the search: E of the reference (B, 2, *space) and the source itself (B, 1, *space)."""

    edges: Tensor
    moving: Tensor

    def compare(self, theta: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """E of the reference, E of the source moved as far as is known, and where it was read."""
        at = lattice(self.edges.shape[2:], like=self.edges)
        position = at + affine_motion(theta, at)
        if residual is not None:
            position = position + resize(residual, at.shape[1:])
        return self.edges, descriptor(sample(self.moving, position)), position


def descriptor(image: Tensor) -> Tensor:
    """E of the module: (B, 1, *space) -> (B, 2, *space); zero where the image is flat."""
    gy, gx = central_difference(image, axis=-2), central_difference(image, axis=-1)
    energy = gy.square() + gx.square()
    noise = NOISE * energy.mean(dim=list(range(1, energy.dim())), keepdim=True)
    return torch.cat([gy.square() - gx.square(), 2 * gy * gx], dim=1) / (energy + noise + 1e-12)


def central_difference(x: Tensor, *, axis: int) -> Tensor:
    """The slope of x per voxel along an axis; beyond its ends x goes on as it is there."""
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, -1, 1)
    rest = x.shape[axis] - 1
    ahead, behind = torch.cat([x.narrow(axis, 1, rest), last], axis), torch.cat([first, x.narrow(axis, 0, rest)], axis)
    return (ahead - behind) / 2


def pooled(image: Tensor, stride: int) -> Tensor:
    """(B, 1, *space) averaged over `stride` voxels along each axis, or over as many as leave it `FEWEST`."""
    strides = (next((s for s in (stride, 4, 2) if s <= stride and n >= FEWEST * s), 1) for n in image.shape[2:])
    size = [n // s for n, s in zip(image.shape[2:], strides, strict=True)]
    return image if size == list(image.shape[2:]) else F.interpolate(image, size=size, mode="area")


def resize(field: Tensor, space: Sequence[int]) -> Tensor:
    """A field (B, N, *space) at another scale."""
    return F.interpolate(field, size=list(space), mode="bilinear" if len(space) == 2 else "trilinear")


def lattice(space: Sequence[int], *, like: Tensor) -> Tensor:
    """Each voxel's own position: (N, *space)"""
    axes = [(2 * torch.arange(n, dtype=like.dtype, device=like.device) + 1) / n - 1 for n in space]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def with_one(at: Tensor) -> Tensor:
    """(N, *space) -> (1 + N, *space): what an affine motion is linear in."""
    return torch.cat([torch.ones_like(at[:1]), at])


def affine_motion(theta: Tensor, at: Tensor) -> Tensor:
    """theta (B, N, 1 + N) at positions (N, *space) -> motion (B, N, *space)"""
    return (theta @ with_one(at).flatten(1)).reshape(-1, *at.shape)


def sample(image: Tensor, position: Tensor) -> Tensor:
    """image (B, C, *space) at positions (B, N, *out) -> (B, C, *out); linear, the border goes on outwards."""
    grid = position.flip(1).movedim(1, -1).to(image.dtype)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def best_shift(a: Tensor, b: Tensor) -> Tensor:
    """The expected shift of b against a (B, N) under a softmax of their correlation over a window of whole voxels."""
    space = a.shape[2:]
    radii = [min(SEARCH_RADIUS, n // 8) for n in space]
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
    return probability @ (2 * a.new_tensor(shifts) / a.new_tensor(space))


def affine_step(matrix: Tensor, right: Tensor, basis: Tensor) -> Tensor:
    """Weighted least squares over all voxels: matrix (B, N, N, *space), right (B, N, *space) and basis (K, *space) ->
    coefficients (B, N, K)"""
    pairs = (basis[:, None] * basis).flatten(0, 1).flatten(1)  # (K K, voxels)
    batch, axes, terms = len(right), right.shape[1], len(basis)
    normal = (matrix.flatten(3) @ pairs.T).reshape(batch, axes, axes, terms, terms).transpose(2, 3)
    normal = normal.reshape(batch, axes * terms, axes * terms)
    ridge = torch.diag_embed(RIDGE * normal.diagonal(dim1=1, dim2=2) + TINY)
    solution: Tensor = torch.linalg.solve(normal + ridge, (right.flatten(2) @ basis.flatten(1).T).flatten(1))
    return solution.reshape(batch, axes, terms)


def window_step(matrix: Tensor, right: Tensor, *, window: int) -> Tensor:
    """The same for overlapping windows, each on its own: (B, K, K, *space), (B, K, *space) -> (B, K, *windows)"""
    axes = right.dim() - 2

    def over_windows(x: Tensor) -> Tensor:
        cells = F.interpolate(x, size=[max(n // window, 1) for n in x.shape[2:]], mode="area")
        return AVERAGE_POOL[axes](F.pad(cells, [1] * 2 * axes, mode="replicate"), 3, stride=1).movedim(1, -1)

    normal = over_windows(matrix.flatten(1, 2))
    normal = normal.reshape(*normal.shape[:-1], *matrix.shape[1:3])  # (B, *windows, K, K)
    average = normal.diagonal(dim1=-2, dim2=-1).mean(dim=list(range(1, 1 + axes)), keepdim=True)
    stiffness = torch.diag_embed(STIFFNESS * average + TINY)
    solution: Tensor = torch.linalg.solve(normal + stiffness, over_windows(right))
    return solution.movedim(-1, 1)
