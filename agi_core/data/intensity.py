"""Intensities of one volume: which values are believed, how they are scaled to [0, 1], and where the head is.

A single voxel of 32767, or a block that is filled with one value, must not decide what is dark and what is bright. So
the range of believed values comes first, and everything else looks at that range alone.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from agi_core.data.nifti import FloatArray
from agi_core.errors import DataError

BoolArray = npt.NDArray[np.bool_]

_PERCENTILES = (0.5, 99.5)
_WIDTHS = 3  # between the percentiles; `test_no_honest_scan_is_doubted` shows that scans of heads stay within
_STRIPPED_ZERO_FRACTION = 0.3
_FILLED_FACE = 0.9  # a head that is cut off fills half of a face of its box, an ellipse 0.79


def is_stripped(data: FloatArray) -> bool:
    """Whether zero is the background: more than 30 % of the voxels are exactly zero, and the others have the shape of a
    head. They do not where they fill a face of the box around them: then they hold noise, and the zeros are padding."""
    head = data != 0
    if data.size - np.count_nonzero(head) <= _STRIPPED_ZERO_FRACTION * data.size:
        return False
    for axis in range(3):
        occupied = np.flatnonzero(head.any(axis=tuple(other for other in range(3) if other != axis)))
        head = head.take(range(occupied[0], occupied[-1] + 1), axis=axis) if occupied.size else head
    return all(head.take(end, axis=axis).mean() < _FILLED_FACE for axis in range(3) for end in (0, -1))


def believed_range(data: FloatArray) -> tuple[float, float]:
    """The least and the greatest value of a volume that are believed. A stripped volume's zeros do not count.

    Not believed is what lies further beyond the 0.5th or 99.5th percentile than three times their distance. A block of
    one value that half a percent of the voxels or more have would be such a percentile itself; where it lies that far
    from all others, it is left out first.
    """
    believed = _believed(data)
    return float(believed[0]), float(believed[-1])


def _believed(data: FloatArray) -> FloatArray:
    """All values that are believed, sorted; see `believed_range`."""
    ordered: FloatArray = np.sort(data[data != 0] if is_stripped(data) else data, axis=None)
    while True:
        lo, hi = _ends(ordered)
        below = ordered[: np.searchsorted(ordered, hi, "left")]
        above = ordered[np.searchsorted(ordered, lo, "right") :]
        if 2 * below.size > ordered.size and hi - _ends(below)[1] > _WIDTHS * np.ptp(_ends(below)):
            ordered = below
        elif 2 * above.size > ordered.size and _ends(above)[0] - lo > _WIDTHS * np.ptp(_ends(above)):
            ordered = above
        else:
            break
    reach = _WIDTHS * (hi - lo)
    return ordered[np.searchsorted(ordered, lo - reach, "left") : np.searchsorted(ordered, hi + reach, "right")]


def _ends(ordered: FloatArray) -> tuple[float, float]:
    """The 0.5th and the 99.5th percentile of sorted values."""
    lo, hi = (round(percent / 100 * (ordered.size - 1)) for percent in _PERCENTILES)
    return float(ordered[lo]), float(ordered[hi])


def scale_intensity(data: FloatArray) -> tuple[FloatArray, float, float]:
    """Scale a volume to [0, 1] between the 0.5th and 99.5th percentiles of its believed values, clipped.

    A stripped volume's zeros do not count, and stay 0.

    Returns:
        scaled: float32, shape of `data`.
        lo, hi: the percentiles: `scaled = clip((data - lo) / (hi - lo), 0, 1)`.

    Raises:
        DataError: the percentiles are equal.
    """
    stripped = is_stripped(data)
    lo, hi = (float(q) for q in np.percentile(_believed(data), _PERCENTILES))
    if not lo < hi:
        raise DataError(f"nearly all voxels are {lo:g}, so intensities cannot be scaled. Check or leave out this scan.")
    scaled = np.clip((data - np.float32(lo)) / np.float32(hi - lo), 0, 1, dtype=np.float32)
    if stripped:
        scaled[data == 0] = 0
    return scaled, lo, hi


def foreground_mask(data: FloatArray) -> BoolArray:
    """The head in a volume (I, J, K): of the believed voxels, those that are not zero if stripped, else those above
    Otsu's threshold; of these the largest component, with its holes filled in every axial slice and in 3-D."""
    least, greatest = believed_range(data)
    believed = (data >= least) & (data <= greatest)
    head = believed & ((data != 0) if is_stripped(data) else (data > otsu_threshold(data[believed])))
    components, count = ndimage.label(head)
    if count > 1:
        head = components == 1 + np.argmax(np.bincount(components.ravel())[1:])
    return _fill_holes(_fill_holes(head, axes=(0, 1)), axes=(0, 1, 2))


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


def otsu_threshold(data: FloatArray) -> float:
    """Threshold that maximises the variance between the two classes of a 256-bin histogram (Otsu 1979)."""
    counts, edges = np.histogram(data.astype(np.float64), bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(centres[np.argmax(between)])
