"""Ridge regression in closed form, from sufficient statistics; numpy alone.

With features F of a voxel, its target y, and means over the voxels of each subject, then over subjects,

    A = mean F F'      b = mean F y      w = (A + s D)^-1 (b + s D w0),    D = diag(A)

is the least-squares fit of y by w . F, shrunk to w0 with strength s (Hoerl & Kennard 1970). Statistics of subjects and
of sites are added, so nobody needs another's voxels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agi_core.errors import ProtocolError

Vector = NDArray[np.float64]
STRENGTH = 1e-6
"""Of a fit on many subjects, which determine it: enough for features that depend on each other."""
STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
ROUNDING = 1e-9
"""By how much what a site tells may be off, relatively."""
RIDGE = 1e-5
"""Of `whitening`: what monomials of values in [0, 1] hardly reach."""
STRENGTH_ALONE = 1e-2
"""Of a site whose single subject leaves nobody out to choose by."""

DIFFERENCE = 0.5
"""Of `adopted`: about what a fit of a single scan gains on it where the scanner is none of its own. Chosen on built-in
data (docs/results.md, "A hospital that comes later")."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """gram: A (F, F), symmetric; moment: b (F,); energy: mean y^2. All are float64."""

    gram: Vector
    moment: Vector
    energy: float = 0.0

    @classmethod
    def mean(cls, parts: Sequence[Self], weights: Sequence[float] | None = None) -> Self:
        """The weighted mean of the statistics of several subjects or sites; equal weights where none are given."""
        shares = np.full(len(parts), 1 / len(parts)) if weights is None else np.divide(weights, sum(weights))
        return cls(
            np.tensordot(shares, [part.gram for part in parts], axes=1),
            np.tensordot(shares, [part.moment for part in parts], axes=1),
            float(np.dot(shares, [part.energy for part in parts])),
        )

    def solve(self, *, strength: float, towards: Vector | None = None) -> Vector:
        """w of the module; w0 is 0 where there is none. Features that depend on each other leave w free, not broken:
        the shortest is taken."""
        penalty = strength * np.diag(self.gram)
        right = self.moment if towards is None else self.moment + penalty * towards
        solution, *_ = np.linalg.lstsq(self.gram + np.diag(penalty), right, rcond=1e-12)
        return np.asarray(solution)

    def of_first(self, features: int) -> Self:
        """The statistics of the first features alone."""
        return replace(self, gram=self.gram[:features, :features], moment=self.moment[:features])

    def mean_square_error(self, w: Vector) -> float:
        """Of the prediction w . F, which nothing clips."""
        return float(w @ self.gram @ w - 2 * self.moment @ w + self.energy)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a site tells: the upper triangle of A with b in one array of (F + 1)(F + 2) / 2 - 1 numbers."""
        return {"statistics": np.concatenate([self.gram[np.triu_indices(len(self.gram))], self.moment])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], *, features: int, largest: float = 1.0) -> Self:
        """Statistics that a site told; it is not trusted.

        For means over voxels [A b; b' E y^2] is positive semidefinite, and E y^2 is at most 1, because targets lie in
        [0, 1]. So [A b; b' 1] is, too: a site cannot tell of a target in directions in which its features do not vary,
        in which a small b would move the solution far. It is looked at with each feature scaled to a mean square of 1,
        so that no large entry hides what the others are.

        Args:
            largest: what the absolute value of no feature exceeds; 1 for monomials of values in [0, 1].

        Raises:
            ProtocolError: they are of another form, or cannot be such means; the first feature is 1 everywhere.
        """
        size = features * (features + 1) // 2
        if [*arrays] != ["statistics"] or (numbers := arrays["statistics"]).shape != (size + features,):
            raise ProtocolError(f"the statistics are not {size + features} numbers, as {features} features have")
        if numbers.dtype != np.float64 or not np.isfinite(numbers).all():
            raise ProtocolError("the statistics are no finite numbers of 64 bits")
        gram, moment = np.zeros((features, features)), numbers[size:].copy()
        gram[np.triu_indices(features)] = numbers[:size]
        gram += np.triu(gram, 1).T
        most = 1.001 * largest  # aligned sources are interpolated in 32 bits
        if abs(gram[0, 0] - 1) > ROUNDING or np.abs(gram).max() > most**2 or not _possible(gram):
            raise ProtocolError("the statistics cannot be means over voxels")
        if not _possible(np.block([[gram, moment[:, None]], [moment, np.ones(1)]])):
            raise ProtocolError("the statistics are of a target outside of [0, 1]")
        return cls(gram, moment)


def _possible(gram: Vector) -> bool:
    """Whether there are voxels whose features have these mean products."""
    squares = np.diag(gram)
    if squares.min() < 0:
        return False
    scale = np.sqrt(np.where(squares > 0, squares, 1.0))
    with np.errstate(over="ignore"):  # a stranger's mean square may be 1e-320
        scaled = gram / scale / scale[:, None]
    return bool(np.isfinite(scaled).all() and np.linalg.eigvalsh(scaled).min() >= -ROUNDING)


def whitening(gram: Vector) -> Vector:
    """(gram + RIDGE I)^-1/2, (F, F), symmetric: in its coordinates the gram matrix is the identity, but where it hardly
    reaches. `gram` is positive semidefinite up to rounding."""
    values, vectors = np.linalg.eigh(gram + RIDGE * np.eye(len(gram)))
    return np.asarray((vectors / np.sqrt(np.maximum(values, RIDGE))) @ vectors.T)


def adopted(own: Vector, subjects: Sequence[Statistics], *, common: Vector) -> tuple[Vector, float]:
    """How far to go from the common w to `own`, which is solved from n subjects of a place that nobody has trained on,
    and where that leads: (w, part of the way in [0, 1]).

    Scans of one scanner differ too, so a fit of a few of them is better on these by a part R of its own squared error
    wherever they come from. As the positive-part James-Stein estimator (Baranchik 1964) does with what noise alone may
    be, the part DIFFERENCE / (n R) of the way is left out: all of it where n subjects say no more than one scanner's.
    """
    before, after = (sum(subject.mean_square_error(w) for subject in subjects) for w in (common, own))
    gain = before - after
    part = max(0.0, 1 - DIFFERENCE * after / (len(subjects) * gain)) if gain > 0 else 0.0
    return common + part * (own - common), part


def solve_own(subjects: Sequence[Statistics], *, towards: Vector) -> Vector:
    """A site's own w from the statistics of its subjects, shrunk to the common one with the `best_strength`."""
    return Statistics.mean(subjects).solve(strength=best_strength(subjects, towards=towards), towards=towards)


def best_strength(subjects: Sequence[Statistics], *, towards: Vector, strengths: Sequence[float] = STRENGTHS) -> float:
    """The strength that predicts each subject best from the others; STRENGTH_ALONE of a single subject."""
    if len(subjects) == 1:
        return STRENGTH_ALONE
    pairs = [(Statistics.mean([*subjects[:n], *subjects[n + 1 :]]), left_out) for n, left_out in enumerate(subjects)]
    errors = {
        strength: sum(
            left_out.mean_square_error(rest.solve(strength=strength, towards=towards)) for rest, left_out in pairs
        )
        for strength in strengths
    }
    return min(strengths, key=lambda s: errors[s])
