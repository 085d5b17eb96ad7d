"""The simplest synthesis: each target voxel as a cubic polynomial of the source voxels at the same place, one
least-squares fit for all; of the sources as they are, or of aligned ones.

It knows nothing of space, so it is the score that any network must beat.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agi_core.data.cached_session import CachedSession
from agi_core.models.prior import monomials
from agi_core.network import Network
from agi_core.ridge import Vector


@dataclass(frozen=True, eq=False)
class VoxelRegression:
    """A fit, as a `Predictor`: `coefficients` of the monomials of `_features`."""

    coefficients: NDArray[np.float64]
    neighbours: int = 0
    volumetric: bool = False

    @classmethod
    def fit(cls, sessions: Iterable[CachedSession]) -> Self:
        """Fit over all stored voxels of the sessions, slice by slice; memory does not grow with their number."""
        slices = (session.read_slice(k)[0] for session in sessions for k in range(session.shape[0]))
        return cls.fit_values((volumes[:-1], volumes[-1]) for volumes in slices)

    @classmethod
    def fit_values(cls, slices: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]]) -> Self:
        """Fit over sources (M, ...) and targets (...), part by part."""
        normal: NDArray[np.float64] | float = 0.0
        right: NDArray[np.float64] | float = 0.0
        for sources, target in slices:
            features = _features(sources.reshape(len(sources), -1).astype(np.float64))
            normal = normal + features @ features.T
            right = right + features @ target.ravel().astype(np.float64)
        coefficients, *_ = np.linalg.lstsq(np.asarray(normal), np.asarray(right), rcond=None)
        return cls(coefficients)

    def predict(self, sources: Tensor) -> Tensor:
        """Sources (B, M, h, w) in [0, 1] -> prediction (B, 1, h, w), unbounded."""
        batch, modalities, height, width = sources.shape
        values = sources.numpy().astype(np.float64).transpose(1, 0, 2, 3).reshape(modalities, -1)
        prediction = (self.coefficients @ _features(values)).reshape(batch, 1, height, width)
        return torch.from_numpy(prediction.astype(np.float32))


@dataclass(frozen=True, eq=False)
class AlignedRegression:
    """A cubic polynomial of the aligned sources, as a `Predictor`: `coefficients` of the features of the network's
    prior. Of the network nothing else is used but its alignment."""

    network: Network
    coefficients: Vector

    @property
    def neighbours(self) -> int:
        return self.network.neighbours

    @property
    def volumetric(self) -> bool:
        return self.network.volumetric

    def predict(self, sources: Tensor) -> Tensor:
        """See `Network.predict`."""
        features = self.network.features(sources, prior_alone=True)
        return torch.einsum("k,bkhw->bhw", torch.from_numpy(self.coefficients).float(), features)[:, None]


def _features(sources: NDArray[np.float64]) -> NDArray[np.float64]:
    """The `monomials` of the rows of `sources` (M, N): (features, N)."""
    return monomials(torch.from_numpy(sources)[None])[0].numpy()
