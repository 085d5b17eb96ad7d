"""Whether a synthetic volume is consistent in three dimensions: from slice to slice, and in how much tissue it shows.

A model that sees single slices may be right in each of them, and the volume may still jump from one to the next, or
hold less of a tissue than the real one. A tissue here is a class of intensity, because no map of tissues is at hand:
the head of the real volume is divided into dark, middle and bright, and both volumes are cut at the same two values.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from agi_core.data.header import Affine
from agi_core.data.intensity import BoolArray
from agi_core.metrics import SSIM_RADIUS, neighbour_ssim
from agi_core.segmentation.box import box_of

PLANES = ("sagittal", "coronal", "axial")  # across the axes I, J, K
CLASSES = ("dark", "middle", "bright")
_BINS = 128

Image = NDArray[np.floating]


def consistency(synthetic: Image, real: Image, head: BoolArray, *, affine: Affine) -> dict[str, float]:
    """Figures of two volumes (I, J, K) in [0, 1] in RAS+ order, within the head of the real one:

    `neighbours_real_PLANE`, `neighbours_synthetic_PLANE`: mean SSIM between each slice and the next;
    `volume_ratio_CLASS`: volume of the synthetic class over that of the real one;
    `centroid_shift_mm_CLASS`: distance between the centres of the two.

    What cannot be had is left out: slices too small for SSIM, or an empty class.
    """
    figures = {}
    box = box_of(head, margin=SSIM_RADIUS)
    for axis, plane in enumerate(PLANES):
        for name, volume in (("real", real), ("synthetic", synthetic)):
            slices, within = (torch.from_numpy(np.moveaxis(array[box], axis, 0).copy()) for array in (volume, head))
            if (ssim := neighbour_ssim(slices, within)) is not None:
                figures[f"neighbours_{name}_{plane}"] = ssim
    places_mm = np.argwhere(head) @ affine[:3, :3].T
    cuts = two_thresholds(real[head])
    ours, theirs = (np.digitize(volume[head], cuts) for volume in (synthetic, real))
    for number, name in enumerate(CLASSES):
        mine, its = places_mm[ours == number], places_mm[theirs == number]
        if len(its):
            figures[f"volume_ratio_{name}"] = len(mine) / len(its)
        if len(mine) and len(its):
            figures[f"centroid_shift_mm_{name}"] = float(np.linalg.norm(mine.mean(axis=0) - its.mean(axis=0)))
    return figures


def two_thresholds(values: Image) -> tuple[float, float]:
    """The two values that divide others in [0, 1] into three classes with the most variance between them (Otsu 1979).

    A value is below a threshold that it equals not: `np.digitize` gives its class.
    """
    counts, edges = np.histogram(values, bins=_BINS, range=(0, 1))
    weight = np.concatenate([[0.0], np.cumsum(counts)])
    sums = np.concatenate([[0.0], np.cumsum(counts * (edges[:-1] + edges[1:]) / 2)])
    n, total = weight[-1], sums[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        below = np.nan_to_num(sums**2 / weight)  # of the classes [0, i)
        above = np.nan_to_num((total - sums) ** 2 / (n - weight))  # [j, end)
        between = np.nan_to_num((sums[None] - sums[:, None]) ** 2 / (weight[None] - weight[:, None]))  # [i, j)
    spread = np.where(np.arange(_BINS + 1) > np.arange(_BINS + 1)[:, None], below[:, None] + between + above, -np.inf)
    i, j = np.unravel_index(np.argmax(spread), spread.shape)
    return float(edges[i]), float(edges[j])
