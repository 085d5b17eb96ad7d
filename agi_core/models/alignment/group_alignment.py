"""Group alignment: every source is brought onto the reference before the network mixes them.

Not in the paper, which rolls groups inside the network; `docs/alignment.md` says what led here. For each sample and
source, with E the edges that a contrast shows, whichever side of them is the brighter one:

    E(x)  = (gy^2 - gx^2, 2 gy gx) / (gy^2 + gx^2 + noise)                 direction in the plane, angle doubled
    u     = soft-argmax over whole shifts d of <E(reference), E(source(p + d))>               coarse to fine, then
    u     = argmin of sum_p |E(reference)(p) - E(source)(p + u(p))|^2 over affine u           by Gauss-Newton
    v     = argmin of the same with u + v(p), plus v' P v, over cosines v                     dense only
    u     = u max(0, 1 - (noise^2 / mean |u|^2)^2), v likewise                              what is no motion is none
    out   = source(p + u(p) + v(p))                                                           interpolated once

E is a normalised gradient field (Haber and Modersitzki, MICCAI 2006) made to be subtracted, the argmin is Lucas and
Kanade's (IJCAI 1981), and P is the precision of a Gaussian process, smoothed white noise (as in Ashburner and Friston,
Human Brain Mapping 7:254, 1999), whose variance is what has been found so far. All of it is closed form: no parameter
that private training pays for or federated averaging mixes, no statistic of other samples. It is estimated without
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

SEARCH_STRIDES = (8, 4)
SEARCH_RADIUS = 2
"""In voxels of each stride: the search reaches 16 and then 8 voxels further along an axis of at least 96."""
SHARPNESS = 20.0
"""The soft-argmax's, in units of 1 / correlation."""
REFINE_STRIDES = (4, 2, 2, 1, 1)
"""One Gauss-Newton step each for the affine part."""
DENSE_STRIDES = (2, 2, 1, 1, 1)
"""And with `dense` one more each for the waves of the smooth field."""
WAVE_VOXELS, MOST_WAVES = 12, 12
"""A dense field has one wave for so many voxels of an axis, up to a number: the cost grows with its sixth power."""
SMOOTHNESS = 8.0
"""Of a dense field a priori, in voxels: white noise under a Gaussian of this standard deviation."""
STIFFNESS, BENT, STIFFEST = 0.005, 2.5, 100.0
"""The prior's precision in units of what all edges tell together, for a field of `BENT` voxels (root mean square) or
more; for a smaller one times (BENT / rms)^2, up to `STIFFEST` times."""
BINS = 32
"""Of the reference's intensities, by which a source is filled in where it was not imaged."""
FEWEST = 12
"""An axis is never pooled to fewer voxels than this."""
NOISE = 0.1
"""Of the mean squared gradient: edges far below it do not count."""
RIDGE = 1e-3
"""Added to the diagonal of the affine fit, as a part of it."""
TINY = 1e-6
"""Added to every diagonal, for images without an edge."""
FOUND, FOUND_THROUGH, FOUND_BENDING = 0.35, 0.2, 0.4
"""As much motion is found where there is none: root mean square in voxels of an affine motion in the plane, in slices
through it, and in voxels of waves (`ixi_like_registered`, training subjects: a tenth above 0.26, 0.15 and 0.20)."""


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

        Where a source was not imaged, out of its grid or zero where the reference is not, it is what it is elsewhere
        where the reference is as bright. An empty batch gives an empty result.
        """
        aligned = list(self._middle(sources).unbind(1))
        others = [m for m in range(len(aligned)) if m != self.reference]
        if others and len(sources):
            position = lattice(aligned[0].shape[1:], like=sources) + self._motion(sources, others)
            moved = sample(sources[:, others].flatten(0, 1)[:, None], position)
            given = torch.stack([aligned[self.reference]] * len(others), dim=1).flatten(0, 1)[:, None]
            imaged = self._inside(position) & ((moved != 0) | (given == 0))  # zero too where resampling found nothing
            moved = torch.where(imaged, moved, expected(moved, given, known=imaged))
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
        """u + v of every source in `others`: (B * len(others), N, *space), of depth 1 with neighbours."""
        images = sources.to(torch.promote_types(sources.dtype, torch.float32))
        moving = images[:, others].flatten(0, 1)[:, None]
        fixed = images[:, [self.reference] * len(others)].flatten(0, 1)[:, None]
        theta = fixed.new_zeros(len(fixed), fixed.dim() - 2, fixed.dim() - 1)
        with torch.autocast(images.device.type, enabled=False):
            scales = {s: Scale(descriptor(pooled(fixed, s)), pooled(moving, s)) for s in (8, 4, 2, 1)}
            for stride in SEARCH_STRIDES:
                edges, moved, _ = self._compare(scales[stride], theta)
                theta[..., 0] += best_shift(self._middle(edges), moved)
            for stride in REFINE_STRIDES:
                matrix, right = self._normal_equations(*self._compare(scales[stride], theta))
                basis = with_one(lattice(right.shape[2:], like=right))[: 1 if self.kind == "global" else None]
                theta[..., : len(basis)] += affine_step(matrix, right, basis)
            space = self._middle(fixed).shape[2:]
            motion = self._shrunk(affine_motion(theta, lattice(space, like=fixed)), images.shape[2:], FOUND)
            if self.kind != "dense":
                return motion
            waves = motion.new_zeros(*motion.shape[:2], *[min(max(n // WAVE_VOXELS, 1), MOST_WAVES) for n in space])
            plane = slice(1 if self.neighbours else 0, None)  # few slices tell too little of each place's depth
            for stride in DENSE_STRIDES:
                equations = self._normal_equations(*self._compare(scales[stride], theta, waves), planar=True)
                waves[:, plane] += wave_step(*equations, waves[:, plane], voxels=space)
            return motion + self._shrunk(from_waves(waves, space), images.shape[2:], FOUND_BENDING)

    def _shrunk(self, motion: Tensor, voxels: Sequence[int], found: float) -> Tensor:
        """Less of a motion (B, N, *space) that is hardly above what is found where nothing moved, and nothing of one
        below: times max(0, 1 - (noise^2 / mean square)^2), a James-Stein estimator (1961) that leaves larger ones more
        alone, so that sources that lie on the reference are not blurred by an interpolation. `voxels`: of the sources,
        along each axis; `found`: the noise in the plane."""
        half = motion.new_tensor(list(voxels)).reshape(-1, *[1] * (motion.dim() - 2)) / 2
        squares = (motion * half).square().flatten(2).mean(2)  # (B, N), in voxels
        through = min(self.neighbours, 1)
        squares[:, through:] = squares[:, through:].sum(1, keepdim=True)
        noise = squares.new_tensor([FOUND_THROUGH] * through + [found] * (squares.shape[1] - through))
        kept = (1 - (noise**2 / squares.clamp(min=1e-6)).square()).clamp(min=0)
        return motion * kept.reshape(*kept.shape, *[1] * (motion.dim() - 2))

    def _compare(self, scale: "Scale", theta: Tensor, waves: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """E of the reference, E of the source moved as far as is known, and where it was read."""
        at = lattice(self._middle(scale.edges).shape[2:], like=theta)
        position = at + affine_motion(theta, at)
        if waves is not None:
            position = position + from_waves(waves, at.shape[1:])
        return scale.edges, descriptor(sample(scale.moving, position)), position

    def _normal_equations(
        self, edges: Tensor, moved: Tensor, position: Tensor, *, planar: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Gauss-Newton's matrix (B, K, K, *space) and right-hand side (B, K, *space) of every voxel by itself, for the
        last K axes: all, or, of slabs with `planar`, those in the plane."""
        here = self._middle(edges)
        mean, change, weight = (here + moved) / 2, here - moved, self._inside(position)
        slopes = [difference(mean, axis=axis) for axis in range(3 if self.neighbours else 2, mean.dim())]
        if self.neighbours and not planar:  # the reference's, where mirrored slices have no slope, moved or not
            slopes.insert(0, edges.narrow(2, self.neighbours + 1, 1) - edges.narrow(2, self.neighbours - 1, 1))
        voxels = edges.shape[-len(slopes) :]
        slopes = [slope * (n / 4 * weight) for slope, n in zip(slopes, voxels, strict=True)]  # normalised coordinates
        axes = range(len(slopes))
        upper = {(i, j): (slopes[i] * slopes[j]).sum(1) for i in axes for j in axes[i:]}
        matrix = torch.stack([upper[min(i, j), max(i, j)] for i, j in product(axes, repeat=2)], dim=1)
        right = torch.stack([(slope * change).sum(1) for slope in slopes], dim=1)
        return matrix.reshape(len(right), len(axes), len(axes), *right.shape[2:]), right

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


def descriptor(image: Tensor) -> Tensor:
    """E of the module: (B, 1, *space) -> (B, 2, *space); zero where the image is flat."""
    gy, gx = (difference(image, axis=image.dim() + axis) for axis in (-2, -1))
    energy = gy.square() + gx.square()
    noise = NOISE * energy.mean(dim=list(range(1, energy.dim())), keepdim=True)
    return torch.cat([gy.square() - gx.square(), 2 * gy * gx], dim=1) / (energy + noise + 1e-12)


def difference(x: Tensor, *, axis: int) -> Tensor:
    """Of the voxels ahead and behind along an axis, twice the slope; beyond its ends x goes on as it is there."""
    padding = [int(other == axis) for other in reversed(range(2, x.dim())) for _ in range(2)]
    padded = F.pad(x, padding, mode="replicate")
    return padded.narrow(axis, 2, x.shape[axis]) - padded.narrow(axis, 0, x.shape[axis])


def pooled(image: Tensor, stride: int) -> Tensor:
    """(B, 1, *space) averaged over `stride` voxels along each axis, or over as many as leave it `FEWEST`."""
    strides = (next((s for s in (stride, 4, 2) if s <= stride and n >= FEWEST * s), 1) for n in image.shape[2:])
    size = [n // s for n, s in zip(image.shape[2:], strides, strict=True)]
    return image if size == list(image.shape[2:]) else F.interpolate(image, size=size, mode="area")


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


def expected(image: Tensor, given: Tensor, *, known: Tensor) -> Tensor:
    """The mean of an image (B, 1, *space), over its `known` voxels, where `given` in [0, 1] is about as bright; zero
    where it is so nowhere."""
    bins = (given * (BINS - 1)).round().clamp(0, BINS - 1).long().flatten(1)
    weight = known.flatten(1).to(image.dtype)
    none = image.new_zeros(len(image), BINS)
    count, total = none.scatter_add(1, bins, weight), none.scatter_add(1, bins, weight * image.flatten(1))
    return (total / count.clamp(min=1)).gather(1, bins).reshape(image.shape)


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


def cosines(count: int, *, at: int, like: Tensor) -> Tensor:
    """Waves of 0, 1, ... half periods at the middles of `at` equal parts of an axis: (count, at)"""
    numbers, places = (torch.arange(n, dtype=like.dtype, device=like.device) for n in (count, at))
    return torch.cos(torch.pi * numbers[:, None] * (places + 0.5) / at)


def from_waves(waves: Tensor, space: Sequence[int]) -> Tensor:
    """Amplitudes (B, N, *counts) of products of cosines -> the field that they make (B, N, *space)"""
    for n in space:  # the axis in front is replaced and goes to the end
        waves = torch.tensordot(waves, cosines(waves.shape[2], at=n, like=waves), dims=([2], [0]))
    return waves


def wave_step(matrix: Tensor, right: Tensor, waves: Tensor, *, voxels: Sequence[int]) -> Tensor:
    """The step to the most probable amplitudes of `from_waves`, if a priori the field is a smooth Gaussian process.

    For the last K axes of an image of `voxels`: matrix (B, K, K, *at) and right (B, K, *at), at any scale of it, and
    the amplitudes so far (B, K, *counts) -> what to add to them. The prior's variance is that of the field so far,
    and that of much bending as long as there is none.
    """
    (batch, axes), counts = waves.shape[:2], waves.shape[2:]
    half = waves.new_tensor(list(voxels[-axes:])).reshape(-1, *[1] * len(counts)) / 2  # voxels per unit
    normal, rough, power = matrix, waves.new_zeros(()), waves.new_ones(())
    for count, n in zip(counts, voxels, strict=True):
        basis = cosines(count, at=right.shape[2], like=waves)
        normal = torch.tensordot(normal, (basis[:, None] * basis).flatten(0, 1), dims=([3], [1]))
        right = torch.tensordot(right, basis, dims=([2], [1]))
        numbers = torch.arange(count, dtype=waves.dtype, device=waves.device)
        rough = rough[..., None] + (SMOOTHNESS * torch.pi * numbers / n).square()
        power = power[..., None] * torch.where(numbers > 0, 0.5, 1.0)  # mean square of a wave
    normal = normal.reshape(batch, axes, axes, *[count for count in counts for _ in range(2)])
    rows, columns = range(3, normal.dim(), 2), range(4, normal.dim(), 2)
    normal = normal.permute(0, 1, *rows, 2, *columns).reshape(batch, waves[0].numel(), -1)
    told = matrix.diagonal(dim1=1, dim2=2).flatten(1, -2).sum(1)  # by all edges, of a shift along each axis
    told = (told / half.flatten().square()).mean(1)
    bent = ((half * waves).square() * power).flatten(1).sum(1)
    stiffer = torch.where(bent > 0, BENT**2 / bent.clamp(min=1e-12), 1.0).clamp(1, STIFFEST)
    pull = (STIFFNESS * stiffer * told).reshape(-1, *[1] * (waves.dim() - 1)) * half.square() + TINY
    prior = pull * rough.exp()
    factor = torch.linalg.cholesky_ex(normal + torch.diag_embed(prior.flatten(1))).L
    return torch.cholesky_solve((right - prior * waves).flatten(1)[..., None], factor).reshape(waves.shape)
