"""The figures of a synthetic volume: their names, what a table calls them, and their means over subjects."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from agi_core.scoring.consistency import CLASSES, PLANES

CONFIDENCE = 0.95


class Figure(NamedTuple):
    """What a table calls it, and how many decimals it shows."""

    label: str
    decimals: int


_REGIONS = ("head", "healthy", "tumour", "oedema", "enhancing")

FIGURES: dict[str, Figure] = {
    "brasyn_ssim_tumour": Figure("BraSyn's SSIM, tumour", 4),
    "brasyn_ssim_healthy": Figure("BraSyn's SSIM, healthy", 4),
    **{f"ssim_{region}": Figure(f"SSIM inside {region}", 3) for region in _REGIONS},
    **{f"psnr_db_{region}": Figure(f"PSNR (dB), {region}", 2) for region in _REGIONS},
    **{f"mae_{region}": Figure(f"MAE, {region}", 4) for region in _REGIONS},
    **{
        f"neighbours_{whose}_{plane}": Figure(f"SSIM of neighbours, {plane}, {whose}", 3)
        for plane in PLANES
        for whose in ("real", "synthetic")
    },
    **{f"volume_ratio_{name}": Figure(f"Volume ratio, {name}", 3) for name in CLASSES},
    **{f"centroid_shift_mm_{name}": Figure(f"Centroid shift (mm), {name}", 2) for name in CLASSES},
}


class Mean(NamedTuple):
    """Mean over subjects with its 95 % interval (Student's t), which one subject alone does not have."""

    mean: float
    low: float | None
    high: float | None
    subjects: int


def means(rows: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, Mean]:
    """The means of (subject, figures) of visits, in the order of `FIGURES`: visits of one subject are averaged first,
    because they are not independent. A figure that some lack is the mean of the others."""
    by_subject: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for subject, figures in rows:
        for name, value in figures.items():
            by_subject[name][subject].append(value)
    return {name: _mean([float(np.mean(v)) for v in by_subject[name].values()]) for name in FIGURES if by_subject[name]}


def _mean(values: list[float]) -> Mean:
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Mean(mean, None, None, n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Mean(mean, mean - half, mean + half, n)
