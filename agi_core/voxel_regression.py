"""The simplest synthesis: each target voxel as a cubic polynomial of the source voxels at the same place, one
least-squares fit for all.

It knows nothing of space, so it is the score that any network must beat.
"""

from collections.abc import Iterable
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agi_core.data.preparation import CachedSession
from agi_core.prediction import Predict, middle

DEGREE = 3


def fit(sessions: Iterable[CachedSession]) -> Predict:
    """Fit over all stored voxels of the sessions, slice by slice; memory does not grow with their number.

    Returns:
        sources (B, M, H, W) -> prediction (B, 1, H, W).
    """
    normal: NDArray[np.float64] | float = 0.0
    right: NDArray[np.float64] | float = 0.0
    for session in sessions:
        for k in range(session.shape[0]):
            volumes, _ = session.read_slice(k)
            values = volumes.reshape(volumes.shape[0], -1).astype(np.float64)
            features = _features(values[:-1])
            normal = normal + features @ features.T
            right = right + features @ values[-1]
    coefficients, *_ = np.linalg.lstsq(np.asarray(normal), np.asarray(right), rcond=None)

    def predict(sources: Tensor) -> Tensor:
        slices = middle(sources)
        batch, modalities, height, width = slices.shape
        values = slices.numpy().astype(np.float64).transpose(1, 0, 2, 3).reshape(modalities, -1)
        return torch.from_numpy((coefficients @ _features(values)).reshape(batch, 1, height, width).astype(np.float32))

    return predict


def _features(sources: NDArray[np.float64]) -> NDArray[np.float64]:
    """All monomials up to DEGREE of the rows of `sources` (M, N): (features, N), the first row ones."""
    rows = [np.ones_like(sources[0])]
    for degree in range(1, DEGREE + 1):
        rows += [
            np.prod([sources[i] for i in powers], axis=0)
            for powers in combinations_with_replacement(range(len(sources)), degree)
        ]
    return np.stack(rows)
