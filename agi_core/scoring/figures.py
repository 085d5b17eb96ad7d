"""The figures of a synthetic volume: their names, what a table calls them, and their means over subjects."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from agi_core.metric_table import SEGMENTED, SEGMENTED_ROWS, SEGMENTED_TARGETS
from agi_core.scoring.consistency import CLASSES, PLANES

CONFIDENCE = 0.95
LEAST_LOST = 0.02  # of a Dice without the scan: a recovered share of less would say nothing
_RESAMPLED, _LEAST_DRAWN = 2000, (1 + CONFIDENCE) / 2


class Figure(NamedTuple):
    """What a table calls it, and how many decimals it shows; of a segmentation it stands in a table of its own. It is
    never below `least` or above `most`."""

    label: str
    decimals: int
    segmented: bool = False
    least: float = 0.0
    most: float = math.inf


_similarity, _part = partial(Figure, least=-1.0, most=1.0), partial(Figure, most=1.0)
_REGIONS = ("head", "healthy", "tumour", "oedema", "enhancing")

FIGURES: dict[str, Figure] = {
    "brasyn_ssim_tumour": _similarity("BraSyn's SSIM, tumour", 4),
    "brasyn_ssim_healthy": _similarity("BraSyn's SSIM, healthy", 4),
    **{f"ssim_{region}": _similarity(f"SSIM inside {region}", 3) for region in _REGIONS},
    **{f"psnr_db_{region}": Figure(f"PSNR (dB), {region}", 2) for region in _REGIONS},
    **{f"mae_{region}": Figure(f"MAE, {region}", 4) for region in _REGIONS},
    **{f"coverage_{region}": _part(f"Within the 90 % interval, {region}", 3) for region in _REGIONS},
    **{
        f"neighbours_{whose}_{plane}": _similarity(f"SSIM of neighbours, {plane}, {whose}", 3)
        for plane in PLANES
        for whose in ("real", "synthetic")
    },
    **{f"volume_ratio_{name}": Figure(f"Volume ratio, {name}", 3) for name in CLASSES},
    **{f"centroid_shift_mm_{name}": Figure(f"Centroid shift (mm), {name}", 2) for name in CLASSES},
    **{
        f"{figure}_{target}_{row}": kind(f"{label}, {target}, {row}", decimals, segmented=True)
        for figure, label in SEGMENTED.items()
        for kind, decimals in [(Figure, 1) if figure.endswith("mm") else (_part, 3)]
        for target in SEGMENTED_TARGETS
        for row in SEGMENTED_ROWS
    },
}


class Mean(NamedTuple):
    """Mean over subjects with its 95 % interval (Student's t, no farther than the figure can be), which one subject
    alone does not have."""

    mean: float
    low: float | None
    high: float | None
    subjects: int


def means(rows: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, Mean]:
    """The means of (subject, figures) of visits, in the order of `FIGURES`: visits of one subject are averaged first,
    because they are not independent. A figure that some lack is the mean of the others."""
    by_subject = _by_subject(rows)
    return {name: _mean([*by_subject[name].values()], figure) for name, figure in FIGURES.items() if name in by_subject}


def segmented_rows(by_name: Mapping[str, Mean]) -> list[tuple[str, list[str]]]:
    """(row, mean of each of `SEGMENTED` for each of `SEGMENTED_TARGETS`) as text, for each of `SEGMENTED_ROWS` that was
    segmented."""
    names = [f"{figure}_{target}" for figure in SEGMENTED for target in SEGMENTED_TARGETS]
    return [
        (f"{row}: {given}", [f"{by_name[key].mean:.{FIGURES[key].decimals}f}" for key in (f"{n}_{row}" for n in names)])
        for row, given in SEGMENTED_ROWS.items()
        if f"{names[0]}_{row}" in by_name
    ]


def recovered_shares(rows: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, Mean]:
    """Of `dice` and `lesion_dice` of each target: how much of what a missing scan costs the synthetic one gives back,
    (synthetic - floor) / (ceiling - floor) of the means over subjects, with an interval by bootstrap over subjects; and
    the same of the one by voxel regression, such as `dice_WT_regression`. Left out where the ceiling is not
    LEAST_LOST above the floor, so that the scan is hardly needed; where more draws are than lie on one side of the
    interval, there is no interval."""
    by_subject = _by_subject(rows)
    shares = {}
    for name in (f"{figure}_{target}" for figure in ("dice", "lesion_dice") for target in SEGMENTED_TARGETS):
        for made, called in (("synthetic", name), ("regression", f"{name}_regression")):
            values = [by_subject.get(f"{name}_{row}", {}) for row in (made, "floor", "ceiling")]
            table = np.array([[its[subject] for its in values] for subject in values[0]])  # (subjects, 3)
            if len(table) and (share := _share(table)) is not None:
                shares[called] = Mean(share, *_drawn(table), len(table))
    return shares


def _drawn(table: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """The interval of a share by bootstrap over the subjects of a table; None twice where there is none."""
    rng = np.random.default_rng(0)
    shares = [_share(table[rng.integers(0, len(table), len(table))]) for _ in range(_RESAMPLED)]
    had = [share for share in shares if share is not None]
    if len(table) < 2 or len(had) < _LEAST_DRAWN * _RESAMPLED:
        return None, None
    low, high = np.percentile(had, [2.5, 97.5]).tolist()
    return low, high


def _share(table: NDArray[np.float64]) -> float | None:
    return recovered_share(*table.mean(axis=0).tolist())


def recovered_share(made: float, floor: float, ceiling: float) -> float | None:
    """(made - floor) / (ceiling - floor); None where the scan is hardly needed."""
    lost = ceiling - floor
    return (made - floor) / lost if lost >= LEAST_LOST else None


def _by_subject(rows: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """{figure: {subject: mean over its visits}}."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for subject, figures in rows:
        for name, value in figures.items():
            values[name][subject].append(value)
    return {name: {subject: float(np.mean(v)) for subject, v in its.items()} for name, its in values.items()}


def _mean(values: list[float], figure: Figure) -> Mean:
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Mean(mean, None, None, n)
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2) * np.std(values, ddof=1) / np.sqrt(n))
    return Mean(mean, max(mean - half, figure.least), min(mean + half, figure.most), n)
