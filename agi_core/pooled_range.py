"""A known range that sites tell together, without any subject's own measures: what each site is asked, what follows.

After the final test each site tells of some training subjects, for each measure of `agi_core.known_range` in the order
of its `names_of`, the mean and the mean square. Of these and the numbers of subjects follows the range over all these
subjects together.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from agi_core.errors import DataError
from agi_core.known_range import OF_TRAINING, SIZES, KnownRange, Measures

MOMENTS = "moments"
MOST = 16
"""Subjects of a site that are measured, because each takes a second or two. The range of 16 is wider by a third than
that of thousands, and that of three such sites by a tenth."""
LARGEST_SIZE = 1e4  # mm, or litres; all else lies within -1 and 1
_ROUNDING = 1e-9  # as a share; more, and what one site tells could make up for what others spread
Moments = NDArray[np.float64]
"""(2, measures): mean, and mean square."""
Told = tuple[Moments, int]  # of a site, and how many subjects they are of


def moments(measured: Iterable[Measures], names: Sequence[str]) -> Moments:
    """Of these subjects, one at least. Raises DataError: a measure is not finite."""
    table = np.array([[its[name] for name in names] for its in measured])
    if not np.isfinite(table).all():
        raise DataError("a measure of a training subject's sources is not finite: its head is too small to measure")
    return np.stack([table.mean(axis=0), np.square(table).mean(axis=0)])


def are_possible(told: Moments, names: Sequence[str]) -> bool:
    """Whether there are subjects with such moments (2, measures)."""
    largest = np.array([LARGEST_SIZE if name.endswith(SIZES) else 1.0 for name in names]) ** 2
    with np.errstate(over="ignore", invalid="ignore"):
        of_mean, squares = np.square(told[0]), told[1]
        return bool(np.all((of_mean <= (1 + _ROUNDING) * squares) & (squares <= (1 + _ROUNDING) * largest)))


def pooled(told: Mapping[str, Told], names: Sequence[str]) -> KnownRange:
    """The range over the subjects of all sites, two at least."""
    counts = [count for _, count in told.values()]
    means, squares = np.average([its for its, _ in told.values()], axis=0, weights=counts)
    subjects = sum(counts)
    spreads = np.sqrt((squares - np.square(means)).clip(0) * subjects / (subjects - 1))
    return KnownRange(
        OF_TRAINING,
        subjects,
        dict(zip(names, means.tolist(), strict=True)),
        dict(zip(names, spreads.tolist(), strict=True)),
    )
