"""A blend: what several experts make of one target, weighted so that the expected squared error is smallest.

The error of a blend sum_i w_i p_i with weights that sum to 1 follows from what sites can measure apart from each other:

    E(w) = sum_i w_i e_i^2 - 1/2 sum_ij w_i w_j d_ij

    e_i^2 = mean (p_i - target)^2    where the target exists
    d_ij  = mean (p_i - p_j)^2       where the sources of both exist, with or without the target

It is w' C w with the covariance of errors C_ij = (e_i^2 + e_j^2 - d_ij) / 2 (Krogh and Vedelsby, NeurIPS 1994). Nobody
needs to hold the sources of all experts and the target. For two experts the smallest error is at
w_1 = 1/2 + (e_2^2 - e_1^2) / (2 d), cut to [0, 1].

The image of an expert lies in the pose of its reference. Where the sources are aligned, so are the images of experts
with other references, by the motion between the references: a blend of images in two poses would be blurred.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Self

import numpy as np
import torch
from torch import Tensor

from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.network import Network
from agi_core.pair_alignment import moved_onto
from agi_core.prediction import Predictor, middle

SWEEPS = 1000
SETTLED = 1e-9  # a sweep that moves no weight by more is the last


def blend_weights(squared_errors: Sequence[float], disagreements: Mapping[tuple[int, int], float]) -> list[float]:
    """The weights in [0, 1], with sum 1, of the blend with the smallest error.

    Weight is moved between two experts at a time, each time by what is best for the two.

    Args:
        squared_errors: e_i^2 of each expert, at least one.
        disagreements: d_ij by (i, j), i < j. Where nobody holds the sources of both, errors are taken as independent:
            d_ij = e_i^2 + e_j^2.
    """
    errors, count = np.array(squared_errors), len(squared_errors)
    apart = np.zeros((count, count))
    for i, j in combinations(range(count), 2):
        apart[i, j] = apart[j, i] = disagreements.get((i, j), errors[i] + errors[j])
    weights = np.full(count, 1 / count)
    for _ in range(SWEEPS):
        largest = 0.0
        for i, j in combinations(range(count), 2):
            excess = (errors[i] - apart[i] @ weights) - (errors[j] - apart[j] @ weights)  # slope from j to i
            moved = -excess / (2 * apart[i, j]) if apart[i, j] > 0 else -np.sign(excess)
            moved = min(max(moved, -weights[i]), weights[j])
            weights[i] += moved
            weights[j] -= moved
            largest = max(largest, abs(moved))
        if largest < SETTLED:
            break
    return [float(weight) for weight in weights]


def pose_of(experts: Iterable[tuple[str, bool, float]]) -> str:
    """The source in whose pose a blend's image lies: the reference of the heaviest expert, and first of those experts
    whose reference lies in the target's pose.

    Args:
        experts: of each its reference, whether that lies in the target's pose, and its weight.
    """
    return max(experts, key=lambda expert: expert[1:])[0]


@dataclass(frozen=True)
class Expert:
    """A predictor of some of the sources: `channels` are their places among those of the blend. Its image lies in the
    pose of the blend's source number `reference`."""

    predictor: Predictor
    channels: tuple[int, ...]
    weight: float
    reference: int

    @classmethod
    def of(cls, network: Network, weight: float, *, sources: Sequence[str]) -> Self:
        """A network in a blend of these sources."""
        channels = tuple(map(sources.index, network.scenario.sources))
        return cls(network, channels, weight, sources.index(network.reference))


@dataclass(frozen=True)
class Blend:
    """Experts of one target, as one `Predictor`, in the pose of source number `pose`. `alignment`, of pairs, brings the
    images of experts with other references there; None: they stay where they are."""

    experts: tuple[Expert, ...]
    pose: int
    alignment: GroupAlignment | None

    @classmethod
    def of(
        cls, experts: Sequence[tuple[Network, float]], *, sources: Sequence[str], pose: str | None = None
    ) -> "Blend":
        """Trained networks and their weights. Without a pose, `pose_of` names it."""
        if pose is None:
            pose = pose_of((network.reference, network.on_reference is None, weight) for network, weight in experts)
        parts = tuple(Expert.of(network, weight, sources=sources) for network, weight in experts)
        return cls(parts, sources.index(pose), experts[0][0].pairs)

    def made_by(self, predictors: Sequence[Predictor]) -> "Blend":
        """The same blend with another predictor in the place of each expert's."""
        experts = zip(self.experts, predictors, strict=True)
        return replace(self, experts=tuple(replace(expert, predictor=one) for expert, one in experts))

    @property
    def neighbours(self) -> int:
        """Of any expert: all are trained alike."""
        return self.experts[0].predictor.neighbours

    @property
    def volumetric(self) -> bool:
        """As `neighbours`."""
        return self.experts[0].predictor.volumetric

    def predict(self, sources: Tensor) -> Tensor:
        """See `Predictor.predict`. Where the reference of an expert was not imaged, the others make the image."""
        return self.weighed(sources)[0]

    def weighed(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        """The image (B, 1, H, W), and the weight in all of the experts that make it, of its shape or of none: 0 where
        nobody does."""
        total, weights = torch.zeros(()), torch.zeros(())
        for one in self.experts:
            image = one.predictor.predict(sources[:, list(one.channels)]).clamp(0, 1)  # as its errors were measured
            weight = torch.tensor(one.weight)
            if self.alignment is not None and one.reference != self.pose:
                image, imaged = self._in_pose(image, middle(sources)[:, [self.pose, one.reference]])
                weight = weight * imaged
            total, weights = total + weight * image, weights + weight
        return total / weights.clamp(min=torch.finfo(torch.float32).tiny), weights

    def _in_pose(self, image: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """`moved_onto` for slices, or for all slices of one volume."""
        assert self.alignment is not None  # noqa: S101  for mypy
        if not self.volumetric:
            return moved_onto(self.alignment, pair, image)
        moved, imaged = moved_onto(self.alignment, pair.transpose(0, 1)[None], image.transpose(0, 1)[None])
        return moved[0].transpose(0, 1), imaged[0].transpose(0, 1)


@dataclass(frozen=True)
class WithGaps:
    """A blend as a `Predictor` of two channels: its image, and 1 where no expert's reference was imaged, else 0."""

    blend: Blend

    @property
    def neighbours(self) -> int:
        """As the blend."""
        return self.blend.neighbours

    @property
    def volumetric(self) -> bool:
        """As the blend."""
        return self.blend.volumetric

    def predict(self, sources: Tensor) -> Tensor:
        """See `Predictor.predict`."""
        image, weights = self.blend.weighed(sources)
        return torch.cat([image, (weights == 0).to(image).expand_as(image)], dim=1)
