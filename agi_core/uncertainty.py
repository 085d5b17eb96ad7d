"""How large the error of a prediction is expected to be, voxel by voxel: a second last layer, in closed form.

The last layer of a network weights its features to a prediction (`agi_core.readout`). The error layer weights the same
features to the expected absolute error, by ridge regression of |prediction - target| on subjects that did not train. So
both come from one pass through the network. `agi_core.conformal` makes intervals of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from agi_core import conformal
from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import WholeSlices, validation_subset
from agi_core.data.slabs import SliceBox
from agi_core.errors import DataError
from agi_core.evaluation import Compared, compared_slices
from agi_core.network import Network
from agi_core.prediction import middle
from agi_core.readout import features_and_target, voxels
from agi_core.ridge import Statistics, Vector, best_strength

VOXELS, SLICES = 4096, 8
"""Of each subject: drawn from the head in so many slices. As many of each, so that subjects count alike."""
LEAST = 0.001
"""The smallest error that is expected anywhere, of values from 0 to 1."""
STRENGTHS = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
"""Of the shrinkage to one number for all voxels, which is best where features tell nothing of new subjects."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Voxels of one subject's head: the network's features (F, N) and its absolute error (N,)."""

    features: Vector
    error: Vector

    @cached_property
    def statistics(self) -> Statistics:
        count = self.error.size
        return Statistics(
            self.features @ self.features.T / count, self.features @ self.error / count, float(np.mean(self.error**2))
        )


def sample(network: Network, sessions: Sequence[CachedSession]) -> Sample:
    """VOXELS voxels of one subject, the same whenever it is asked, from whole sessions. Only those count where a source
    has a signal, because nothing is predicted elsewhere, and, where the task aligns the target, those that it shows.

    Raises:
        DataError: there is no such voxel.
    """
    features, errors = [], []
    readout = network.readout
    for session, indices in validation_subset(sessions, limit=SLICES, volumes=network.volumetric):
        compare = partial(_in_head, network, session.source_box)
        for compared in compared_slices(compare, network, session, indices, batch_size=SLICES):
            seen, target = (part.numpy() for part in voxels(*compared))
            features.append(seen.astype(np.float32))  # as the network told them; of a volume they are many
            errors.append(np.abs((readout @ seen).clip(0, 1) - target))
    if not any(map(len, errors)):
        raise DataError("no source has a signal in the head of a subject, so nothing is known of the errors there")
    everything, error = np.concatenate(features, axis=1), np.concatenate(errors)
    drawn = np.random.default_rng(0).choice(error.size, VOXELS, replace=error.size < VOXELS)
    return Sample(everything[:, drawn].astype(np.float64), error[drawn])


def _in_head(network: Network, box: SliceBox, batch: WholeSlices) -> Compared:
    rows, columns = box
    sources, target = batch.sources[..., rows, columns], batch.target[..., rows, columns]
    features, target, imaged = features_and_target(network, sources, target)
    shown = (middle(sources) != 0).any(dim=1, keepdim=True)
    return features, target, batch.foreground[..., rows, columns] & shown & imaged


def fit(
    parts: Sequence[Statistics], *, weights: Sequence[float] | None = None, strength: float | None = None
) -> Vector:
    """The error layer (F,) of subjects or sites, shrunk to their mean error everywhere; the first feature is 1.

    Args:
        weights: of the mean over the parts; None: each counts alike.
        strength: None: `strength_of` these parts.
    """
    together = Statistics.mean(parts, weights)
    return together.solve(strength=strength_of(parts) if strength is None else strength, towards=_everywhere(together))


def strength_of(parts: Sequence[Statistics]) -> float:
    """Which of STRENGTHS foresees the error of each subject or site best from the others'."""
    return best_strength(parts, towards=_everywhere(Statistics.mean(parts)), strengths=STRENGTHS)


def _everywhere(statistics: Statistics) -> Vector:
    """The error layer that gives the mean error to all voxels."""
    layer = np.zeros(len(statistics.moment))
    layer[0] = statistics.moment[0]
    return layer


def expected(layer: Vector, features: Vector) -> Vector:
    """The expected absolute error of voxels (F, N), from LEAST to 1."""
    return np.asarray((layer @ features).clip(LEAST, 1))


class Interval(NamedTuple):
    """prediction -+ `factor` * expected error, and what is known of it.

    Attributes:
        guaranteed: the coverage that exchangeable subjects do not fall below, on average.
        subjects: how many calibrated it; `sites`: at how many sites.
    """

    factor: float
    guaranteed: float
    subjects: int
    sites: int

    @classmethod
    def of_blend(cls, experts: Sequence[Self]) -> Self:
        """Of a blend, by the intervals of its experts.

        A blend sum_i w_i p_i, whose weights sum to 1, is on average no farther from the target t than its experts:

            |sum_i w_i p_i - t| <= sum_i w_i |p_i - t|

        So the mean sum_i w_i e_i of the expected errors is a bound of the blend's expected error. With the largest
        factor f, a voxel lies within f sum_i w_i e_i wherever it lies in the intervals of all experts, so what lies
        outside is at most the sum of what each leaves outside, and may be all. Experts err alike, so it is far less:
        such an interval is wide. Of subjects and sites, those of the expert with the fewest.
        """
        factors, guarantees, subjects, sites = zip(*experts, strict=True)
        return cls(max(factors), max(0.0, 1 - sum(1 - one for one in guarantees)), min(subjects), min(sites))


@dataclass(frozen=True, eq=False)
class ErrorModel:
    """An error layer of a network's last features, and how often the error was how large beside what was expected.

    Attributes:
        layer: its weights, float64 (F,).
        counts: of the scores, see `agi_core.conformal`; each subject's by the error layer of the others.
        subjects: how many subjects they are of, 2 or more; `sites`: at how many sites.
        calibrated_on: fingerprints of these subjects' scans.
    """

    layer: Vector
    counts: conformal.Counts
    subjects: int
    sites: int
    calibrated_on: tuple[str, ...] = ()

    @property
    def factor(self) -> float:
        """Expected errors to either side of the prediction that make the interval. Raises DataError: there is none."""
        return conformal.factor(self.counts, subjects=self.subjects)

    @property
    def interval(self) -> Interval:
        """Raises DataError: there is none."""
        return Interval(self.factor, conformal.guaranteed(self.subjects), self.subjects, self.sites)


def calibrate(
    samples: Sequence[Sample], *, sites: int = 1, fingerprints: Sequence[str] = ()
) -> tuple[ErrorModel, list[float]]:
    """The error model of these subjects, and how much of each subject the interval of all others covers.

    Args:
        sites: at how many sites the subjects are.
        fingerprints: of their scans.

    Raises:
        DataError: there is one subject, or errors lie far beyond what is expected.
    """
    if len(samples) < 2:
        raise DataError(f"{len(samples)} subjects are too few to tell errors from others'; give at least 2, better 20")
    parts = [one.statistics for one in samples]
    strength = strength_of(parts)
    scores = [
        one.error / expected(fit([*parts[:n], *parts[n + 1 :]], strength=strength), one.features)
        for n, one in enumerate(samples)
    ]
    counts = [conformal.count(one) for one in scores]
    total = np.sum(counts, axis=0)
    covered = [
        float((one <= conformal.factor(total - own, subjects=len(samples) - 1)).mean())
        for one, own in zip(scores, counts, strict=True)
    ]
    return ErrorModel(fit(parts, strength=strength), total, len(samples), sites, tuple(fingerprints)), covered


@dataclass(frozen=True, eq=False)
class WithError:
    """A `Predictor` with two channels: the network's prediction, and its expected absolute error."""

    network: Network
    layer: Vector

    @property
    def neighbours(self) -> int:
        return self.network.neighbours

    @property
    def volumetric(self) -> bool:
        return self.network.volumetric

    def predict(self, sources: Tensor) -> Tensor:
        """As `Network.predict`, -> (B, 2, h, w), the error LEAST at least."""
        both = self.network.read_out(np.stack([self.network.readout, self.layer]), sources)
        return torch.stack([both[:, 0], both[:, 1].clamp(min=LEAST)], dim=1)
