"""Lesion-wise figures: cases by hand, and a count by other means."""

from itertools import product

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance

from agi_core.segmentation.lesions import (
    WORST_HD95_MM,
    SegmentationScore,
    dice_of,
    hausdorff95_mm,
    rules_of,
    score_segmentation,
)

SHAPE = (40, 24, 24)
MM = (1.0, 1.0, 1.0)
Voxels = set[tuple[int, ...]]


def cube(at: int, side: int = 4) -> np.ndarray:
    """From `at` on along the first axis, from 4 on along the others."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[at : at + side, 4 : 4 + side, 4 : 4 + side] = True
    return mask


NOTHING = np.zeros(SHAPE, dtype=bool)


def test_a_perfect_segmentation_of_two_lesions() -> None:
    truth = cube(2) | cube(20)
    assert score_segmentation(truth, truth, spacing_mm=MM) == SegmentationScore(1, 1, 0, 2, 0)


def test_nothing_where_there_is_nothing() -> None:
    assert score_segmentation(NOTHING, NOTHING, spacing_mm=MM) == SegmentationScore(1, 1, 0, 0, 0)


def test_a_missed_and_an_invented_lesion() -> None:
    """One lesion of two is found, and one is predicted where there is none: three lesions, one of them right."""
    score = score_segmentation(cube(2) | cube(33), cube(2) | cube(20), spacing_mm=MM)
    assert (score.lesions, score.false_positives) == (2, 1)
    assert score.lesion_dice == pytest.approx(1 / 3)
    assert score.lesion_hd95_mm == pytest.approx(2 * WORST_HD95_MM / 3)
    assert score.dice == pytest.approx(0.5)


def test_only_false_positives() -> None:
    assert score_segmentation(cube(2), NOTHING, spacing_mm=MM) == SegmentationScore(0, 0, WORST_HD95_MM, 0, 1)


@pytest.mark.parametrize(("gap", "lesions"), [(6, 1), (7, 2)])
def test_lesions_whose_dilated_forms_touch_are_one(gap: int, lesions: int) -> None:
    """Three voxels are added on either side, so a gap of six is closed."""
    truth = cube(2) | cube(6 + gap)
    score = score_segmentation(cube(2), truth, spacing_mm=MM)
    assert (score.lesions, score.false_positives) == (lesions, 0)
    assert score.lesion_dice == pytest.approx({1: 2 * 64 / (64 + 128), 2: 1 / 2}[lesions])


def test_a_prediction_beside_a_lesion_is_matched_within_the_dilation() -> None:
    """It does not overlap, so its Dice is 0, but it is no false positive."""
    beside, apart = (score_segmentation(cube(6 + gap), cube(2), spacing_mm=MM) for gap in (2, 3))
    assert (beside.false_positives, beside.lesion_dice) == (0, 0)
    assert beside.lesion_hd95_mm < 10
    assert (apart.false_positives, apart.lesion_hd95_mm) == (1, WORST_HD95_MM)


def test_all_predicted_parts_of_a_lesion_count_together() -> None:
    truth = cube(2, side=8)
    parts = truth.copy()
    parts[5:7] = False
    score = score_segmentation(parts, truth, spacing_mm=MM)
    assert (score.lesions, score.false_positives) == (1, 0)
    assert score.lesion_dice == pytest.approx(2 * 384 / (384 + 512))


@pytest.mark.parametrize(("spacing_mm", "lesions"), [(MM, 1), ((1.0, 1.0, 2.0), 2)])
def test_small_lesions_are_dropped_by_their_volume(spacing_mm: tuple[float, float, float], lesions: int) -> None:
    """Of 27 voxels: 27 mm^3, or 54. Whoever finds the small one has no false positive."""
    truth = cube(2) | cube(20, side=3)
    score = score_segmentation(truth, truth, spacing_mm=spacing_mm)
    assert (score.lesions, score.false_positives) == (lesions, 0)


@pytest.mark.parametrize(
    ("subject_id", "lesions"), [("BraTS-GLI-00001", 1), ("site-7", 1), ("BraTS-MEN-00001", 2), ("BraTS-MET-00001", 3)]
)
def test_each_kind_of_tumour_has_its_rules(subject_id: str, lesions: int) -> None:
    """Two cubes with three voxels between them are one glioma; metastases of 27 mm^3 count."""
    truth = cube(2) | cube(9) | cube(20, side=3)
    assert score_segmentation(truth, truth, spacing_mm=MM, rules=rules_of(subject_id)).lesions == lesions


def test_hausdorff_by_hand() -> None:
    """A cube that is moved by 3 voxels along an axis of 2 mm: a face is 6 mm from the other cube's."""
    one, other = cube(2), cube(5)
    assert hausdorff95_mm(one, other, spacing_mm=(2.0, 1.0, 1.0)) == 6
    assert hausdorff95_mm(one, one, spacing_mm=MM) == 0
    assert hausdorff95_mm(one, NOTHING, spacing_mm=MM) == WORST_HD95_MM
    assert dice_of(one, other) == pytest.approx(1 / 4)


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("seed", range(4))
def test_hausdorff_agrees_with_monai(seed: int) -> None:
    rng, spacing_mm = np.random.default_rng(seed), (1.0, 2.0, 3.0)
    one, other = (blobs(rng) for _ in range(2))
    batches = (torch.from_numpy(mask)[None, None] for mask in (one, other))
    expected = compute_hausdorff_distance(*batches, include_background=True, percentile=95, spacing=spacing_mm)
    assert hausdorff95_mm(one, other, spacing_mm=spacing_mm) == pytest.approx(float(expected))


def test_a_single_far_voxel_is_outside_of_95_percent() -> None:
    one = cube(2, side=6)
    other = one.copy()
    other[39, 23, 23] = True
    assert hausdorff95_mm(other, one, spacing_mm=MM) == 0


@pytest.mark.parametrize("seed", range(3))
def test_figures_agree_with_an_independent_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = (blobs(rng) for _ in range(2))
    score = score_segmentation(predicted, truth, spacing_mm=MM)
    dice, lesions, false_positives = counted(predicted, truth)
    assert (score.lesions, score.false_positives) == (lesions, false_positives)
    assert score.lesion_dice == pytest.approx(dice)


def blobs(rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((30, 30, 14), dtype=bool)
    for _ in range(5):
        i, j, k = rng.integers(0, (26, 26, 10))
        side = rng.integers(2, 6)
        mask[i : i + side, j : j + side, k : k + side] = True
    return mask


def counted(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, int, int]:
    """The rules of the challenge on sets of voxels, without arrays."""
    found, real = ({tuple(map(int, place)) for place in np.argwhere(mask)} for mask in (predicted, truth))
    offsets = [offset for offset in product((-1, 0, 1), repeat=3) if any(offset)]
    near = [offset for offset in offsets if sum(map(abs, offset)) <= 2]
    grown, everywhere = real, set(np.ndindex(truth.shape))
    for _ in range(3):
        grown = (grown | {added(voxel, offset) for voxel in grown for offset in near}) & everywhere
    predictions, dices, matched = components(found, offsets), [], []
    for zone in components(grown, offsets):
        lesion, touching = zone & real, [part for part in predictions if part & zone]
        matched += touching
        if len(lesion) > 50:
            both = set().union(*touching)
            dices.append(2 * len(both & lesion) / (len(both) + len(lesion)))
    false_positives = len([part for part in predictions if part not in matched])
    return sum(dices) / (len(dices) + false_positives), len(dices), false_positives


def added(voxel: tuple[int, ...], offset: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(voxel, offset, strict=True))


def components(voxels: Voxels, offsets: list[tuple[int, ...]]) -> list[Voxels]:
    left, parts = set(voxels), []
    while left:
        part, edge = set(), {left.pop()}
        while edge:
            part |= edge
            edge = {added(voxel, offset) for voxel in edge for offset in offsets} & left
            left -= edge
        parts.append(part)
    return parts
