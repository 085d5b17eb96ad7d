"""What a segmentation network still finds where one of its four scans is synthetic, made by regression, or black."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agi_core.data.fingerprint import fingerprint, image_fingerprint
from agi_core.data.header import Grid
from agi_core.data.intensity import scale_intensity
from agi_core.data.nifti import FloatArray, read_volume
from agi_core.data.preprocess import same_grid
from agi_core.errors import DataError
from agi_core.segmentation.labels import Labels, target_mask
from agi_core.segmentation.lesions import rules_of, score_segmentation
from agi_core.segmentation.segmenter import Segmenter
from agi_core.segmentation.visits import MODALITIES


@dataclass(frozen=True)
class Scene:
    """A visit of a subject, one of whose real scans a synthetic one stands in for: `modality`. The `scans` are all real
    ones of the visit, and `firsts` those of the network's first modality of all visits, by which it knows a subject."""

    subject: str
    modality: str
    scans: Mapping[str, Path]
    firsts: Sequence[Path]


def segmentation_rows(
    segmenter: Segmenter, scene: Scene, *, synthetic: FloatArray, real: FloatArray, labels: Labels, grid: Grid
) -> tuple[dict[str, float], list[str]]:
    """Dice, lesion-wise Dice and HD95 (mm) of each target with what stands in for the scene's modality, a row each:
    `FIGURE_TARGET_ROW`, with the rows ceiling (the real scan), synthetic, regression and floor (black).

    Args:
        synthetic, real: (I, J, K) in [0, 1] on the real scan's scale; `grid` is theirs.

    Returns:
        The figures; or none, and why: the visit has not all scans, or the subject trained the network, at this visit
        or another.

    Raises:
        DataError: another scan of the visit cannot be read, or lies on another grid.
    """
    target = scene.modality
    if lacking := [modality for modality in MODALITIES if modality not in scene.scans]:
        return {}, [f"not segmented: it has no {', '.join(lacking)}"]
    if target not in MODALITIES:
        return {}, [f"not segmented: the network knows no {target}"]
    if any(fingerprint(path) in segmenter.trained_on for path in scene.firsts):
        return {}, ["not segmented: the subject trained the segmentation network"]
    if any(image_fingerprint(read_volume(path).data) in segmenter.trained_on for path in scene.firsts):
        return {}, ["not segmented: the subject trained the segmentation network, from another file"]
    others = {modality: _read(scene, modality, grid=grid) for modality in MODALITIES if modality != target}
    given = {
        "ceiling": real,
        "synthetic": synthetic,
        "regression": segmenter.regressed(target, others),
        "floor": real * 0,
    }
    figures = {}
    for row, volume in given.items():
        for part, mask in segmenter.segment({**others, target: volume}).items():
            truth = target_mask(labels, part)
            score = score_segmentation(mask, truth, spacing_mm=grid.spacing_mm, rules=rules_of(scene.subject))
            figures[f"dice_{part}_{row}"] = score.dice
            figures[f"lesion_dice_{part}_{row}"] = score.lesion_dice
            figures[f"lesion_hd95_mm_{part}_{row}"] = score.lesion_hd95_mm
    return figures, []


def _read(scene: Scene, modality: str, *, grid: Grid) -> FloatArray:
    path = scene.scans[modality]
    volume = read_volume(path)
    if not same_grid(volume.grid, grid):
        raise DataError(f"{path} lies on another grid than {scene.scans[scene.modality]}; the network needs one grid.")
    return scale_intensity(volume.data, place=path)[0]
