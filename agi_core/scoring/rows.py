"""What a segmentation network still finds where one of its four scans is synthetic, made by regression, or black."""

from agi_core.data.fingerprint import fingerprint, image_fingerprint
from agi_core.data.header import Grid
from agi_core.data.intensity import scale_intensity
from agi_core.data.nifti import FloatArray, read_volume
from agi_core.data.preprocess import same_grid
from agi_core.errors import DataError
from agi_core.scoring.pairs import Pair
from agi_core.segmentation.labels import Labels, target_mask
from agi_core.segmentation.lesions import rules_of, score_segmentation
from agi_core.segmentation.segmenter import MODALITIES, Segmenter


def segmentation_rows(
    segmenter: Segmenter, pair: Pair, *, synthetic: FloatArray, real: FloatArray, labels: Labels, grid: Grid
) -> tuple[dict[str, float], list[str]]:
    """Dice, lesion-wise Dice and HD95 (mm) of each target with what stands in for the pair's modality, a row each:
    `FIGURE_TARGET_ROW`, with the rows ceiling (the real scan), synthetic, regression and floor (black).

    Args:
        synthetic, real: (I, J, K) in [0, 1] on the real scan's scale; `grid` is theirs.

    Returns:
        The figures; or none, and why: the visit has not all scans, or the subject trained the network, at this visit
        or another.

    Raises:
        DataError: another scan of the visit cannot be read, or lies on another grid.
    """
    if lacking := [modality for modality in MODALITIES if modality not in {pair.modality, *pair.others}]:
        return {}, [f"not segmented: it has no {', '.join(lacking)}"]
    if pair.modality not in MODALITIES:
        return {}, [f"not segmented: the network knows no {pair.modality}"]
    if any(fingerprint(path) in segmenter.trained_on for path in pair.of_subject):
        return {}, ["not segmented: the subject trained the segmentation network"]
    first = {**pair.others, pair.modality: pair.real}[MODALITIES[0]]
    if image_fingerprint(read_volume(first).data) in segmenter.trained_on:
        return {}, ["not segmented: the visit trained the segmentation network, from another file"]
    others = {modality: _read(pair, modality, grid=grid) for modality in MODALITIES if modality != pair.modality}
    given = {
        "ceiling": real,
        "synthetic": synthetic,
        "regression": segmenter.regressed(pair.modality, others),
        "floor": real * 0,
    }
    figures = {}
    for row, volume in given.items():
        for target, mask in segmenter.segment({**others, pair.modality: volume}).items():
            truth = target_mask(labels, target)
            score = score_segmentation(mask, truth, spacing_mm=grid.spacing_mm, rules=rules_of(pair.subject))
            figures[f"dice_{target}_{row}"] = score.dice
            figures[f"lesion_dice_{target}_{row}"] = score.lesion_dice
            figures[f"lesion_hd95_mm_{target}_{row}"] = score.lesion_hd95_mm
    return figures, []


def _read(pair: Pair, modality: str, *, grid: Grid) -> FloatArray:
    volume = read_volume(pair.others[modality])
    if not same_grid(volume.grid, grid):
        raise DataError(f"{pair.others[modality]} lies on another grid than {pair.real}; the network needs one grid.")
    return scale_intensity(volume.data, place=pair.others[modality])[0]
