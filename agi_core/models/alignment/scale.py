"""One scale of the estimation: what the edges of reference and source tell there about the motion between them."""

from itertools import product

import torch
from torch import Tensor

from agi_core.models.alignment.edges import descriptor, difference
from agi_core.models.alignment.sampling import inside, lattice, middle, sample


class Scale:
    """A reference and a source at one resolution, (B, 1, *space) each.

    With `neighbours` both are slabs (B, 1, S, H, W), and every other `space` is that of the middle slice, (1, H, W).

    Attributes:
        at: the position of each voxel, (N, *space).
        edges: E of the reference, (B, 2, *space).
    """

    def __init__(self, reference: Tensor, source: Tensor, *, neighbours: int) -> None:
        self._all_edges, self._source, self._neighbours = descriptor(reference), source, neighbours
        self.edges = middle(self._all_edges, neighbours)
        self.at = lattice(self.edges.shape[2:], like=source)

    def moved_edges(self, position: Tensor) -> Tensor:
        """E of the source after it was read at positions (B, N, *space): (B, 2, *space)."""
        return descriptor(sample(self._source, position))

    def normal_equations(self, position: Tensor, *, planar: bool = False) -> tuple[Tensor, Tensor]:
        """The Gauss-Newton equations of each voxel's motion, for a source read at positions (B, N, *space).

        Returns:
            The matrix (B, K, K, *space) and the right-hand side (B, K, *space), for the last K axes. K = N; for slabs
            with `planar` K = 2, the axes in the plane. Both are zero where a position is not inside the source.
        """
        moved, weight = self.moved_edges(position), inside(position, self._neighbours)
        mean, change = (self.edges + moved) / 2, self.edges - moved
        slopes = [difference(mean, axis=axis) for axis in range(3 if self._neighbours else 2, mean.dim())]
        if self._neighbours and not planar:
            # Of the reference alone: at an end of the volume its neighbours are mirrored, and then this slope is zero.
            above, below = (self._all_edges.narrow(2, self._neighbours + step, 1) for step in (1, -1))
            slopes.insert(0, above - below)
        voxels = self._all_edges.shape[-len(slopes) :]
        slopes = [slope * (n / 4 * weight) for slope, n in zip(slopes, voxels, strict=True)]  # per normalised unit
        axes = range(len(slopes))
        upper = {(i, j): (slopes[i] * slopes[j]).sum(1) for i in axes for j in axes[i:]}
        matrix = torch.stack([upper[min(i, j), max(i, j)] for i, j in product(axes, repeat=2)], dim=1)
        right = torch.stack([(slope * change).sum(1) for slope in slopes], dim=1)
        return matrix.reshape(len(right), len(axes), len(axes), *right.shape[2:]), right
