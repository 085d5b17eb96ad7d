"""Group alignment: every source is brought onto the reference before the network mixes them.

Group alignment is not in the paper, which rolls groups inside the network; `docs/alignment.md` says how we came to it.
For each sample and source, with the edges E of an image and positions p:

    E(x) = (gy^2 - gx^2, 2 gy gx) / (gy^2 + gx^2 + noise)                                     `edges`
    u    = soft-argmax over whole shifts d of <E(reference), E(source(p + d))>                `affine`, coarse to fine
    u    = argmin of sum_p |E(reference)(p) - E(source)(p + u(p))|^2 over affine u            `affine`, from that shift
    v    = argmin of the same with u + v(p), plus v' P v, over sums of cosines v              `smooth_field`, if dense
    u    = u max(0, 1 - (noise^2 / mean |u|^2)^2), and the same for v                         `shrinkage`
    out  = source(p + u(p) + v(p))                                                            `sampling`, once
    out  = mean of out where the reference is as bright, if p was not imaged                  `filling`

All of it is closed form. There is no parameter that private training would pay for or that federated averaging would
mix, and no statistic of other samples. The motion is estimated without gradients, in float32 or better. `sampling` says
what positions, motions and slabs are.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from agi_core.models.alignment.affine import affine_basis, affine_motion, affine_step, best_shift
from agi_core.models.alignment.edges import pooled
from agi_core.models.alignment.filling import filled_in
from agi_core.models.alignment.sampling import inside, lattice, middle, sample, voxels_per_unit
from agi_core.models.alignment.scale import Scale
from agi_core.models.alignment.shrinkage import AFFINE_NOISE_VOX, FIELD_NOISE_VOX, shrunk
from agi_core.models.alignment.smooth_field import from_waves, wave_counts, wave_step
from agi_core.models.model_config import ModelConfig

SEARCH_STRIDES = (8, 4)
"""The search pools by these strides. It reaches 16 voxels and some more, along an axis of at least 96."""
AFFINE_STRIDES = (4, 2, 2, 1, 1)
"""One Gauss-Newton step of the affine motion at each of these strides."""
DENSE_STRIDES = (2, 2, 1, 1, 1)
"""With `dense`, then one step of the smooth field at each of these."""


class GroupAlignment(nn.Module):
    """Brings every source onto source number `reference`, as the module's equations say. It holds no parameters.

    With `config.neighbours` the sources are slabs and come back as slices. The reference's slice is its middle one; a
    source's slice is what lies there, also if it has moved through the plane.
    """

    def __init__(self, config: ModelConfig, *, reference: int) -> None:
        super().__init__()
        self.kind, self.neighbours, self.reference = config.alignment, config.neighbours, reference

    def forward(self, sources: Tensor) -> Tensor:
        """Align (B, M, *space) -> (B, M, *space), with neighbours (B, M, S, H, W) -> (B, M, H, W).

        A source counts as not imaged outside of its grid, and where it is zero and the reference is not. An empty batch
        gives an empty result.
        """
        aligned = list(middle(sources, self.neighbours).unbind(1))
        others = self._others(sources)
        if others and len(sources):
            position = lattice(aligned[0].shape[1:], like=sources) + self.motion(sources, others)
            moved = sample(_chosen(sources, others), position)
            reference = torch.stack([aligned[self.reference]] * len(others), dim=1).flatten(0, 1)[:, None]
            imaged = inside(position, self.neighbours) & ((moved != 0) | (reference == 0))
            moved = filled_in(moved, reference, imaged=imaged)
            for number, m in enumerate(others):
                aligned[m] = moved[number :: len(others), 0]
        result = torch.stack(aligned, dim=1)
        return result[:, :, 0] if self.neighbours else result

    def offsets(self, sources: Tensor) -> Tensor:
        """Predicted offsets in voxels: (B, M, N, *space), with neighbours (B, M, 3, H, W) for (slices, rows, columns).

        `aligned(p) = source(p + offset(p))`; the offsets of the reference are zero.
        """
        space = middle(sources, self.neighbours).shape[2:]
        offsets = sources.new_zeros(*sources.shape[:2], len(space), *space)
        others = self._others(sources)
        if others and len(sources):
            motion = self.motion(sources, others)
            motion = motion * voxels_per_unit(sources.shape[2:], like=motion)
            offsets[:, others] = motion.reshape(len(sources), len(others), *motion.shape[1:]).to(offsets.dtype)
        return offsets[:, :, :, 0] if self.neighbours else offsets

    def _others(self, sources: Tensor) -> list[int]:
        return [m for m in range(sources.shape[1]) if m != self.reference]

    @torch.no_grad()
    def motion(self, sources: Tensor, others: Sequence[int]) -> Tensor:
        """u + v of every source in `others`: (B * len(others), N, *space), with neighbours of depth 1."""
        images = sources.to(torch.promote_types(sources.dtype, torch.float32))
        moving, fixed = _chosen(images, others), _chosen(images, [self.reference] * len(others))
        shrink = partial(shrunk, voxels=images.shape[2:], neighbours=self.neighbours)
        with torch.autocast(images.device.type, enabled=False):
            scales = {s: Scale(pooled(fixed, s), pooled(moving, s), neighbours=self.neighbours) for s in (8, 4, 2, 1)}
            theta = fixed.new_zeros(len(fixed), fixed.dim() - 2, fixed.dim() - 1)
            for scale in [scales[stride] for stride in SEARCH_STRIDES]:
                position = scale.at + affine_motion(theta, scale.at)
                theta[..., 0] += best_shift(scale.edges, scale.moved_edges(position))
            terms = 1 if self.kind == "global" else theta.shape[2]
            for scale in [scales[stride] for stride in AFFINE_STRIDES]:
                position = scale.at + affine_motion(theta, scale.at)
                theta[..., :terms] += affine_step(*scale.normal_equations(position), affine_basis(scale.at)[:terms])
            at = scales[1].at
            motion = shrink(affine_motion(theta, at), noise_vox=AFFINE_NOISE_VOX)
            if self.kind != "dense":
                return motion
            space = at.shape[1:]
            waves = motion.new_zeros(*motion.shape[:2], *wave_counts(space))
            plane = slice(1 if self.neighbours else 0, None)  # a slab has too few slices to bend through its plane
            for scale in [scales[stride] for stride in DENSE_STRIDES]:
                position = scale.at + affine_motion(theta, scale.at) + from_waves(waves, scale.at.shape[1:])
                equations = scale.normal_equations(position, planar=True)
                waves[:, plane] += wave_step(*equations, waves[:, plane], voxels=space)
            return motion + shrink(from_waves(waves, space), noise_vox=FIELD_NOISE_VOX)


def _chosen(sources: Tensor, numbers: Sequence[int]) -> Tensor:
    """Some of the sources (B, M, *space), one after the other: (B * len(numbers), 1, *space). An index would be a copy
    to the GPU, which would wait for it."""
    return torch.stack([sources[:, number] for number in numbers], dim=1).flatten(0, 1)[:, None]
