"""The figures of one synthetic volume: its real scan says what is dark and bright, and a segmentation where to look.

Everything but BraSyn's own SSIM is counted on one scale, that of the real scan: 0 and 1 stand for its 0.5th and 99.5th
percentile, as in training. So a volume that is darker than the real one as a whole has an error, and is not rescaled.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agi_core.data.intensity import BoolArray, Values, foreground_mask, scale_intensity, values_of
from agi_core.data.nifti import FloatArray, Volume, read_volume
from agi_core.data.preprocess import field_of_view, resample, same_grid
from agi_core.errors import DataError
from agi_core.metric_table import psnr_db
from agi_core.scoring.consistency import consistency
from agi_core.scoring.pairs import Pair
from agi_core.scoring.rows import Scene, segmentation_rows
from agi_core.scoring.ssim import brasyn_ssim, ssim_volume
from agi_core.segmentation.labels import ENHANCING, OEDEMA, Labels, read_labels
from agi_core.segmentation.segmenter import Segmenter
from agi_core.synthesis import made_here

_MIN_OVERLAP, _WHOLE_HEAD = 0.5, 0.99
_BRIGHTEST = (0.2, 5.0)  # of the synthetic volume, where 1 is the brightest of the real one
_AS_BRIGHT = (0.8, 1.25)  # times the value of the brightest voxels
_SLACK = 0.01  # of values from 0 to 1, after interpolation
_CONSTANT, _SATURATED = 0.005, 0.5

Image = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Picture:
    """An axial slice, the one with most of the tumour, or of the head where there is none: arrays (H, W), axis 0
    towards anterior, axis 1 towards the patient's right, intensities in [0, 1] on the real scan's scale."""

    real: Image
    synthetic: Image
    head: BoolArray
    tumour: BoolArray
    spacing_mm: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Scored:
    """One pair: {name of `FIGURES`: value}, without those that cannot be had; what is odd about it; a slice of it."""

    pair: Pair
    figures: dict[str, float]
    doubts: tuple[str, ...]
    picture: Picture


@dataclass(frozen=True)
class Intervals:
    """What was foretold of the error: maps of the expected absolute error, which lie in `maps_dir` as the volumes do in
    `volumes_dir`, and how many of it make the interval."""

    maps_dir: Path
    volumes_dir: Path
    factor: float

    def half_width(self, pair: Pair) -> FloatArray | None:
        """Of the pair's volume, on its grid; None where it has no map."""
        path = self.maps_dir / pair.synthetic.relative_to(self.volumes_dir)
        return np.float32(self.factor) * read_volume(path).data if path.is_file() else None


def score_pair(
    pair: Pair, *, percentiles: bool = False, segmenter: Segmenter | None = None, intervals: Intervals | None = None
) -> Scored:
    """Score one synthetic volume.

    Args:
        percentiles: whether its values are known to be on the scale of `synthesize`: 0 to 1 for the real scan's
            percentiles. Otherwise they are if its header says so, or if they lie from 0 to 1 and the real scan does
            not; else they are in the units of the real scan.
        segmenter: what to segment with the synthetic volume in the place of the real one.
        intervals: how large the error should be, for the coverage.

    Raises:
        DataError: a file cannot be read, the segmentation is refused (`read_labels`), or the synthetic volume lies
            elsewhere or on another scale.
    """
    real, synthetic = read_volume(pair.real), read_volume(pair.synthetic, constant=True)
    labels = None if pair.seg is None else read_labels(pair.seg, grid=real.grid, like=pair.real)
    values = values_of(real.data)
    scaled, _, high = scale_intensity(real.data, values, place=pair.real)
    head = foreground_mask(real.data, values)
    data, doubts = _on_grid(synthetic, real, head, pair)
    times = _times_as_bright(data, real.data, head)
    known = percentiles or made_here(pair.synthetic)
    from_0_to_1 = data.min() > -_SLACK and data.max() < 1 + _SLACK
    on_scale = known or (from_0_to_1 and high > 1 + _SLACK)
    if not known and np.ptp(data) > 0:
        if on_scale:
            doubts.append("its values, from 0 to 1, were taken for the real scan's 0.5th to 99.5th percentile")
        elif from_0_to_1 and high < 1 - _SLACK:
            doubts.append("its values lie from 0 to 1 as the real scan's, and were taken for the same units")
        if not (on_scale or _AS_BRIGHT[0] <= times <= _AS_BRIGHT[1]):
            doubts.append(f"its brightest voxels have {times:.2g} times the value of the real ones: that is an error")
    if not known and data.min() < -_SLACK and real.data.min() >= 0:
        doubts.append("it has negative values and the real scan has none; they are scored as black")
    if np.array_equal(data, real.data):
        doubts.append("it is the real scan, voxel for voxel")
    ours = (data if on_scale else _in_units(data, values, times, head=head, pair=pair)).clip(0, 1)
    regions = {"head": head} | (_regions(labels, head) if labels is not None else {})
    figures = {}
    if labels is not None:
        for name, mask in (("tumour", labels > 0), ("healthy", labels == 0)):
            if (ssim := brasyn_ssim(data, real.data, mask)) is not None:
                figures[f"brasyn_ssim_{name}"] = ssim
    figures |= region_figures(ours, scaled, regions)
    if intervals is not None and (half_width := intervals.half_width(pair)) is not None:
        figures |= _coverage(ours, scaled, regions, resample(half_width, synthetic.grid, real.grid))
    figures |= consistency(ours, scaled, head, affine=real.affine)
    if segmenter is not None and labels is not None:
        scene = Scene(pair.subject, pair.modality, {**pair.others, pair.modality: pair.real}, pair.firsts)
        more, why_not = segmentation_rows(segmenter, scene, synthetic=ours, real=scaled, labels=labels, grid=real.grid)
        figures, doubts = figures | more, doubts + why_not
    fault = image_fault(ours[head])
    doubts += [f"the synthetic volume is {fault}"] if fault else []
    return Scored(pair, figures, tuple(doubts), _picture(ours, scaled, head, labels, real))


def image_fault(values: Image) -> str | None:
    """What is wrong with the predicted values in [0, 1] of a head: constant, saturated, or nothing (None)."""
    if values.std() < _CONSTANT:
        return f"constant within the head ({values.mean():.2f} of 0 to 1)"
    saturated = float(((values <= 0) | (values >= 1)).mean())
    return f"saturated: {saturated:.0%} of the head is black or white" if saturated > _SATURATED else None


def _on_grid(synthetic: Volume, real: Volume, head: BoolArray, pair: Pair) -> tuple[FloatArray, list[str]]:
    """The synthetic voxels on the real scan's grid, and doubts where they had to be interpolated or do not reach."""
    if same_grid(synthetic.grid, real.grid):
        return synthetic.data, []
    overlap = float(field_of_view(synthetic.grid, real.grid)[head].mean())
    if overlap < _MIN_OVERLAP:
        raise DataError(
            f"{pair.synthetic} covers {overlap:.0%} of the head in {pair.real}: their headers place them apart."
            " Write it with the affine of the real scan."
        )
    doubts = ["interpolated from another grid"]
    if overlap < _WHOLE_HEAD:
        doubts.append(f"covers {overlap:.0%} of the head; the rest is scored as black")
    return resample(synthetic.data, synthetic.grid, real.grid), doubts


def _in_units(data: FloatArray, real: Values, times: float, *, head: BoolArray, pair: Pair) -> FloatArray:
    """Voxels in the units of the real scan on its scale. Its blank zeros are black, as in `scale_intensity`,
    however negative the darkest tissue is."""
    low, high = real.low, real.high
    scaled = (data - np.float32(low)) / np.float32(high - low)
    brightest = float(np.percentile(scaled[head], 99.5))
    if np.ptp(data) > 0 and not _BRIGHTEST[0] <= brightest <= _BRIGHTEST[1]:
        raise DataError(
            f"{pair.synthetic} is on another scale than {pair.real}: its brightest voxels have {times:.3g} times the"
            f" value of the real ones ({data.min():g} to {data.max():g} against {low:g} to {high:g}). Write it in the"
            " units of the real scan, or from 0 to 1, clipped, for the 0.5th and 99.5th percentile of that."
        )
    if real.blank:
        scaled[data == 0] = 0
    return np.asarray(scaled)


def _times_as_bright(data: FloatArray, real: FloatArray, head: BoolArray) -> float:
    """The brightest voxels of a head over those of the real one; infinite where these are not positive."""
    ours, theirs = (float(np.percentile(volume[head], 99.5)) for volume in (data, real))
    return ours / theirs if theirs > 0 else np.inf


def _regions(labels: Labels, head: BoolArray) -> dict[str, BoolArray]:
    return {
        "healthy": head & (labels == 0),
        "tumour": labels > 0,
        "oedema": labels == OEDEMA,
        "enhancing": labels == ENHANCING,
    }


def region_figures(synthetic: FloatArray, real: FloatArray, regions: dict[str, BoolArray]) -> dict[str, float]:
    """SSIM, PSNR and MAE of each region that is not empty; volumes in [0, 1]."""
    similarity, error = ssim_volume(synthetic, real), (synthetic - real).astype(np.float64)
    figures = {}
    for region, mask in regions.items():
        if not mask.any():
            continue
        inside = similarity[mask]
        if not np.isnan(inside).all():
            figures[f"ssim_{region}"] = float(np.nanmean(inside))
        figures[f"psnr_db_{region}"] = psnr_db(float(np.mean(error[mask] ** 2)))
        figures[f"mae_{region}"] = float(np.abs(error[mask]).mean())
    return figures


def _coverage(
    synthetic: FloatArray, real: FloatArray, regions: dict[str, BoolArray], half_width: FloatArray
) -> dict[str, float]:
    """The share of each region's voxels whose error is no more than the interval's half width. It counts voxels where
    something was foretold, which is where a source has a signal."""
    inside, foretold = np.abs(synthetic - real) <= half_width, half_width > 0
    masks = {region: mask & foretold for region, mask in regions.items()}
    return {f"coverage_{region}": float(inside[mask].mean()) for region, mask in masks.items() if mask.any()}


def _picture(synthetic: FloatArray, real: FloatArray, head: BoolArray, labels: Labels | None, scan: Volume) -> Picture:
    tumour = np.zeros(head.shape, dtype=bool) if labels is None else labels > 0
    k = int(np.argmax((tumour if tumour.any() else head).sum(axis=(0, 1))))
    right_mm, anterior_mm, _ = scan.grid.spacing_mm
    return Picture(
        real[:, :, k].T.copy(),
        synthetic[:, :, k].T.copy(),
        head[:, :, k].T.copy(),
        tumour[:, :, k].T.copy(),
        (anterior_mm, right_mm),
    )
