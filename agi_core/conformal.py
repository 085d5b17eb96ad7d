"""Intervals that are true of new subjects, from a histogram of scores; numpy alone.

A score is |error| / expected error of a voxel. Over calibration subjects, which neither trained the model nor fitted
the expected error, the scores are counted in fixed bins, as many voxels of each subject. The interval is

    prediction -+ factor * expected error,    factor = the `level` quantile of the pooled counts

Voxels of one head are not independent, subjects are. If the new subject and the n subjects are exchangeable, the
interval covers at least level * n / (n + 1) of a new subject's voxels, on average over subjects (hierarchical
conformal prediction, Lee, Barber & Willett 2023). A level of WANTED (n + 1) / n would guarantee WANTED, and covers more
than that where heads are alike. It is used as far as it is at most MOST: with few subjects the guarantee is weaker, and
`guaranteed` says how much.

Counts of sites are added, so nobody needs another's voxels.
"""

import numpy as np
from numpy.typing import NDArray

from agi_core.errors import DataError

Counts = NDArray[np.int64]
WANTED, MOST = 0.90, 0.92
EDGES = np.geomspace(1 / 16, 16, 65)
"""Of the bins, 8 to a factor of 2; one more bin lies below, one above."""


def count(scores: NDArray[np.floating]) -> Counts:
    """How many of the scores (N,), which are not negative, lie in each of the 66 bins."""
    return np.bincount(np.searchsorted(EDGES, scores), minlength=len(EDGES) + 1)


def level(subjects: int) -> float:
    """Which quantile is taken of the scores of so many subjects."""
    return min(MOST, WANTED * (subjects + 1) / subjects)


def guaranteed(subjects: int) -> float:
    """The coverage that no exchangeable subjects fall below, on average; see the module."""
    return level(subjects) * subjects / (subjects + 1)


def factor(counts: Counts, *, subjects: int) -> float:
    """By how much the expected error is multiplied; between two edges it is interpolated by their ratio.

    Raises:
        DataError: the quantile lies beyond the last edge, so that no interval is narrower than all values.
    """
    below, wanted = _below(counts), level(subjects)
    if below[-1] < wanted:
        raise DataError(
            f"{1 - below[-1]:.0%} of the errors are more than {EDGES[-1]:g} times as large as expected; calibrate with"
            " more subjects, whose scans are like those of training"
        )
    return float(np.exp(np.interp(wanted, below, np.log(EDGES))))


def covered(counts: Counts, factor: float) -> float:
    """The share of the counted voxels whose error is at most `factor` times as large as expected."""
    return float(np.interp(np.log(factor), np.log(EDGES), _below(counts)))


def _below(counts: Counts) -> NDArray[np.float64]:
    """The share of the scores below each edge."""
    return np.asarray(np.cumsum(counts)[:-1] / counts.sum())
