"""What is odd about the voxels of a scan, beside what is odd about its header: the scan is used, and a person looks."""

import numpy as np

from agi_core.data.header import Doubt
from agi_core.data.intensity import MANY_ZEROS, BoolArray, Values, values_of
from agi_core.data.nifti import FloatArray

_CUT_OFF = 0.02  # of the voxels; in honest scans less than 0.001 have the greatest value
_FEW_VALUES = 32
_HEAD_SHARE = (0.02, 0.9)  # of the field of view; 0.14 to 0.69 in honest scans
_CONTRAST = 0.05  # of the range; 0.18 and more in honest scans
_SAMPLE = 100_000  # voxels


def value_doubts(data: FloatArray, values: Values | None = None) -> list[Doubt]:
    """What is odd about the values of one volume (I, J, K), not constant: range and dynamic. `values`: the volume's,
    where they are known already."""
    doubts = []
    blank, _, least, greatest, low, *_ = values or values_of(data)
    counted = data[data != 0] if blank else data
    far = counted[(counted < least) | (counted > greatest)]
    if far.size:
        found = f"{far.size} of {data.size} voxels, such as {far[0]:g}; the others are {least:g} to {greatest:g}"
        doubts.append(Doubt("some values lie far from all others, and are not believed", found))
    lowest = float(np.mean(data == low))
    if not blank and lowest > MANY_ZEROS and values_of(data - np.float32(low)).stripped:
        found = f"{lowest:.0%} of the voxels are {low:g}"
        doubts.append(Doubt("the background is a constant other than 0, and is scaled as if it were head", found))
    cut_off = np.count_nonzero(counted == greatest) / counted.size
    if cut_off > _CUT_OFF:
        doubts.append(Doubt("the brightest voxels all have one value: the scan is cut off", f"{cut_off:.0%}"))
    different = np.unique(_sampled(counted)).size
    if different < _FEW_VALUES:
        doubts.append(Doubt("the scan has very few different values", f"{different}"))
    return doubts


def share_doubts(head: BoolArray) -> list[Doubt]:
    """What is odd about the part of its volume that is head."""
    share = float(head.mean())
    if _HEAD_SHARE[0] <= share <= _HEAD_SHARE[1]:
        return []
    return [Doubt("what is taken for the head fills an implausible part of the scan", f"{share:.1%}")]


def contrast_doubts(scaled: FloatArray, head: BoolArray) -> list[Doubt]:
    """What is odd about a volume in [0, 1] on the target's grid: its contrast between the head and around it."""
    inside, around = _sampled(scaled[head]), _sampled(scaled[~head])
    if not around.size:
        return []
    contrast = float(np.median(inside) - np.median(around))
    if contrast >= _CONTRAST:
        return []
    return [Doubt("the head is hardly brighter than what is around it", f"by {contrast:.0%} of the range")]


def _sampled(values: FloatArray) -> FloatArray:
    """About `_SAMPLE` of the values, at even steps."""
    return values.ravel()[:: max(1, values.size // _SAMPLE)]
