"""Segmentations scored lesion by lesion, with the rules of BraTS 2023 (rachitsaluja/BraTS-2023-Metrics).

A Dice of the whole volume hardly notices a small lesion that is missed. So every lesion of the truth has its own Dice
and Hausdorff distance, and a predicted lesion where there is none counts as one with a Dice of 0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from agi_core.data.intensity import BoolArray
from agi_core.segmentation.box import box_of

WORST_HD95_MM = 374.0  # of a lesion that was missed, or predicted where there is none
_TOUCHING = ndimage.generate_binary_structure(3, 3)  # 26 neighbours
_GROWN_BY = ndimage.generate_binary_structure(3, 2)  # 18 neighbours


class Rules(NamedTuple):
    """What one lesion is: parts of the truth that touch after so many dilations; up to `smallest_mm3` it is dropped."""

    dilations: int
    smallest_mm3: float


GLIOMA = Rules(dilations=3, smallest_mm3=50.0)
_RULES = {"BraTS-MEN": Rules(1, 50.0), "BraTS-MET": Rules(1, 2.0)}  # meningiomas, metastases


def rules_of(subject_id: str) -> Rules:
    """The challenge's rules for a subject, by its name; those for gliomas where it says nothing else."""
    return next((rules for kind, rules in _RULES.items() if subject_id.startswith(kind)), GLIOMA)


@dataclass(frozen=True)
class SegmentationScore:
    """`dice` of the whole volume, the lesion-wise figures (HD95 in mm), and how many lesions these are of."""

    dice: float
    lesion_dice: float
    lesion_hd95_mm: float
    lesions: int
    false_positives: int


def score_segmentation(
    predicted: BoolArray,
    truth: BoolArray,
    *,
    spacing_mm: tuple[float, float, float],
    rules: Rules = GLIOMA,
) -> SegmentationScore:
    """Score one predicted mask (I, J, K) of one target.

    A lesion is all of the truth within one component of the dilated truth. It is matched with every predicted component
    that touches its dilated form. Predicted components that touch no lesion, not even a small one, are false positives.
    Without lesions and false positives, Dice is 1 and HD95 is 0.
    """
    components, _ = ndimage.label(predicted, _TOUCHING)
    grown = ndimage.binary_dilation(truth, _GROWN_BY, iterations=rules.dilations)
    zones, _ = ndimage.label(grown, _TOUCHING)
    voxel_mm3 = float(np.prod(spacing_mm))
    dice, hd95_mm, matched = [], [], set[int]()
    for zone, box in enumerate(ndimage.find_objects(zones), start=1):
        inside = zones[box] == zone
        touched = set(np.unique(components[box][inside]).tolist()) - {0}
        matched |= touched
        lesion = np.zeros_like(truth)
        lesion[box] = truth[box] & inside
        if np.count_nonzero(lesion) * voxel_mm3 <= rules.smallest_mm3:
            continue
        found = np.isin(components, list(touched))
        dice.append(dice_of(found, lesion))
        hd95_mm.append(hausdorff95_mm(found, lesion, spacing_mm=spacing_mm))
    false_positives = len(set(np.unique(components).tolist()) - {0} - matched)
    counted = len(dice) + false_positives
    return SegmentationScore(
        dice=dice_of(predicted, truth),
        lesion_dice=sum(dice) / counted if counted else 1.0,
        lesion_hd95_mm=(sum(hd95_mm) + WORST_HD95_MM * false_positives) / counted if counted else 0.0,
        lesions=len(dice),
        false_positives=false_positives,
    )


def dice_of(predicted: BoolArray, truth: BoolArray) -> float:
    """2 |A and B| / (|A| + |B|); 1 where both are empty."""
    total = np.count_nonzero(predicted) + np.count_nonzero(truth)
    return float(2 * np.count_nonzero(predicted & truth) / total) if total else 1.0


def hausdorff95_mm(predicted: BoolArray, truth: BoolArray, *, spacing_mm: tuple[float, float, float]) -> float:
    """The larger one of the 95th percentiles of the distances from each surface to the other, in mm; 0 where both are
    empty, `WORST_HD95_MM` where one is.

    A surface is the voxels with one of their six neighbours outside. The challenge's program weighs pieces of surface
    between voxels by their area, so its value may differ by a part of a voxel.
    """
    if not (predicted.any() and truth.any()):
        return WORST_HD95_MM if predicted.any() or truth.any() else 0.0
    box = box_of(predicted | truth, margin=1)
    surfaces = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (predicted, truth)]
    distances = [ndimage.distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces]
    (to_predicted, to_truth), (of_predicted, of_truth) = distances, surfaces
    return float(max(np.percentile(to_truth[of_predicted], 95), np.percentile(to_predicted[of_truth], 95)))
