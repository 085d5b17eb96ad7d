"""Intensities of one volume: which values are believed, how they are scaled to [0, 1], and where the head is.

A single voxel of 32767, or a block that is filled with one value, must not decide what is dark and what is bright. So
the range of believed values comes first, and everything else looks at that range alone.
"""

import math
from bisect import bisect_left, bisect_right
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from agi_core.data.nifti import FloatArray
from agi_core.errors import DataError

BoolArray = npt.NDArray[np.bool_]

_PERCENTILES = (0.5, 99.5)
_WIDTHS = 3  # between the percentiles; `test_no_honest_scan_is_doubted` shows that scans of heads stay within
MANY_ZEROS = 0.3  # of the voxels
_FILLED_FACE = 0.9  # a head that is cut off fills half of a face of its box, an ellipse 0.79
_DARK_RIM = 0.05  # of the range; up to 0.04 where air lies beside zeros, 0.07 and more around a stripped brain


class Values(NamedTuple):
    """What one pass over a volume's values tells.

    Attributes:
        blank: whether zeros are no signal, and do not count: more than 30 % of the voxels are exactly zero.
        stripped: whether they are blank, and all else is the head: see `_is_head`. If not, zeros are padding, or the
            darkest air.
        least, greatest: the range of what is believed: see `values_of`.
        low, high: the 0.5th and the 99.5th percentile of what is believed.
        threshold: Otsu's, of what is believed; of a stripped volume, whose head is all that counts, minus infinity.
    """

    blank: bool
    stripped: bool
    least: float
    greatest: float
    low: float
    high: float
    threshold: float


def values_of(data: FloatArray) -> Values:
    """The range of a volume's values that is believed, and its percentiles.

    Not believed is what lies further beyond the 0.5th or 99.5th percentile than three times their distance. A block of
    one value that half a percent of the voxels or more have would be such a percentile itself; where it lies that far
    from all others, it is left out first.
    """
    blank = bool(data.size - np.count_nonzero(data) > MANY_ZEROS * data.size)
    believed = _believed(data[data != 0] if blank else data)
    low, high = (_percentile(believed, percent) for percent in _PERCENTILES)
    least, greatest = float(believed[0]), float(believed[-1])
    stripped = blank and _is_head(data, low, high)
    threshold = -math.inf
    if least < greatest and not stripped:  # all of one value is head
        # Zeros help to tell air from the head: what is left of the air may be few voxels. Among 200 times as many zeros
        # nothing else is believed, and they tell nothing.
        among_zeros = _believed(data) if blank else believed
        threshold = otsu_threshold(among_zeros if among_zeros[0] < among_zeros[-1] else believed)
    return Values(blank, stripped, least, greatest, low, high, threshold)


def _is_head(data: FloatArray, low: float, high: float) -> bool:
    """Whether all that is not zero is the head, as in a stripped volume.

    It is not where it fills a face of the box around it: then it holds noise, and the zeros are padding. Nor is it
    where it is dark beside the zeros: then it ends in air, as in a scan that was turned on a larger grid, or whose
    darkest air is zero. Around a brain lie cortex and CSF.
    """
    head = data != 0
    box = ndimage.find_objects(head.view(np.int8))[0]
    head = head[box]
    if any(head.take(end, axis=axis).mean() >= _FILLED_FACE for axis in range(3) for end in (0, -1)):
        return False
    rim = data[box][head & ~ndimage.binary_erosion(head, border_value=1)]
    return bool(np.median(rim) >= low + _DARK_RIM * (high - low))


def _believed(data: FloatArray) -> FloatArray:
    """All values that are believed, sorted; see `values_of`."""
    ordered: FloatArray = np.sort(data, axis=None)
    while True:
        lo, hi = _ends(ordered)
        below = ordered[: _first(ordered, hi)]
        above = ordered[_past(ordered, lo) :]
        if 2 * below.size > ordered.size and hi - _ends(below)[1] > _WIDTHS * np.ptp(_ends(below)):
            ordered = below
        elif 2 * above.size > ordered.size and _ends(above)[0] - lo > _WIDTHS * np.ptp(_ends(above)):
            ordered = above
        else:
            break
    reach = _WIDTHS * (hi - lo)
    return ordered[_first(ordered, lo - reach) : _past(ordered, hi + reach)]


# `np.searchsorted` would convert a whole volume to float64 first.
_first, _past = partial(bisect_left, key=float), partial(bisect_right, key=float)


def _percentile(ordered: FloatArray, percent: float) -> float:
    """`np.percentile` of sorted values, to the last bit, without the search for them."""
    place = percent / 100 * (ordered.size - 1)
    number = int(place)
    lower, upper = ordered[number], ordered[min(number + 1, ordered.size - 1)]
    part, step = place - number, float(upper - lower)
    return float(lower) + part * step if part < 0.5 else float(upper) - (1 - part) * step


def _ends(ordered: FloatArray) -> tuple[float, float]:
    """The 0.5th and the 99.5th percentile of sorted values."""
    lo, hi = (round(percent / 100 * (ordered.size - 1)) for percent in _PERCENTILES)
    return float(ordered[lo]), float(ordered[hi])


def scale_intensity(
    data: FloatArray, values: Values | None = None, *, place: object = "the volume"
) -> tuple[FloatArray, float, float]:
    """Scale a volume to [0, 1] between the 0.5th and 99.5th percentiles of its believed values, clipped.

    Blank zeros do not count, and stay 0.

    Args:
        values: the volume's, where they are known already.
        place: the file, for messages.

    Returns:
        scaled: float32, shape of `data`.
        lo, hi: the percentiles: `scaled = clip((data - lo) / (hi - lo), 0, 1)`.

    Raises:
        DataError: the percentiles are equal.
    """
    values = values or values_of(data)
    lo, hi = values.low, values.high
    if not lo < hi:
        raise DataError(
            f"{place}: nearly all voxels are {lo:g}, so intensities cannot be scaled. Check or leave out this scan."
        )
    scaled = data - np.float32(lo)
    scaled /= np.float32(hi - lo)
    np.clip(scaled, 0, 1, out=scaled)
    if values.blank:
        scaled[data == 0] = 0
    return scaled, lo, hi


def foreground_mask(data: FloatArray, values: Values | None = None) -> BoolArray:
    """The head in a volume (I, J, K): of the believed voxels that count, all if it is stripped, else those above Otsu's
    threshold; of these the largest component, with its holes filled in every axial slice and in 3-D.
    `values`: the volume's, where they are known already."""
    values = values or values_of(data)
    believed = (data >= values.least) & (data <= values.greatest)
    head = believed & (data > values.threshold)
    if values.blank:
        head &= data != 0
    components, count = ndimage.label(head)
    if count > 1:
        head = components == 1 + np.argmax(np.bincount(components.ravel())[1:])
    for box in ndimage.find_objects(head.view(np.int8)):  # one, or none; what is not head around it leads out
        head[box] = _fill_holes(_fill_holes(head[box], axes=(0, 1)), axes=(0, 1, 2))
    return head


def _fill_holes(mask: BoolArray, *, axes: tuple[int, ...]) -> BoolArray:
    """The mask (I, J, K), and all from where no way along these axes leads out of the volume but through the mask."""
    step = ndimage.generate_binary_structure(3, 1)
    if 2 not in axes:
        step[:, :, [0, 2]] = False
    rest, count = ndimage.label(~mask, step)
    outside = np.zeros(count + 1, dtype=np.bool_)  # by component; 0 is the mask
    for axis in axes:
        for end in (0, -1):
            outside[rest.take(end, axis)] = True
    outside[0] = False
    filled: BoolArray = ~outside[rest]
    return filled


def otsu_threshold(ordered: FloatArray) -> float:
    """Threshold of sorted values that maximises the variance between the two classes of a 256-bin histogram (Otsu
    1979)."""
    edges = np.histogram_bin_edges(ordered[[0, -1]].astype(np.float64), bins=256)
    counts = np.diff([0, *(_first(ordered, edge) for edge in edges[1:-1]), ordered.size])
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(centres[np.argmax(between)])
