"""The figures of image quality: their names, and how each follows from sums over voxels. A new one is an entry here.

Without torch, for programs that need the names alone: a hospital's supervisor, say. `agi_core.metrics` makes the sums.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

SSIM_WINDOW = 11  # voxels along each axis of a slice
PSNR_CEILING_DB = 100.0  # of two equal volumes, instead of infinity


class Sums(NamedTuple):
    """Over the voxels of one subject: their number, |e|, e^2 and t^2, with the target t and the error e. Over the
    windows of SSIM: their number, and their SSIM."""

    voxels: float
    absolute: float
    square: float
    energy: float
    windows: float
    ssim: float


def psnr_db(mean_square_error: float) -> float:
    """10 log10(1 / MSE) for data range 1; at most PSNR_CEILING_DB."""
    if mean_square_error <= 10 ** (-PSNR_CEILING_DB / 10):
        return PSNR_CEILING_DB
    return -10 * math.log10(mean_square_error)


class Metric(NamedTuple):
    """What a report calls it, how many decimals it shows, the value itself, and between which bounds that lies."""

    label: str
    decimals: int
    value: Callable[[Sums], float]
    lowest: float = 0.0
    highest: float = math.inf


METRICS = {
    "psnr_db": Metric("PSNR (dB)", 2, lambda sums: psnr_db(sums.square / sums.voxels), highest=PSNR_CEILING_DB),
    "ssim": Metric("SSIM", 3, lambda sums: sums.ssim / sums.windows, lowest=-1.0, highest=1.0),
    "mae": Metric("MAE", 4, lambda sums: sums.absolute / sums.voxels, highest=1.0),
    "nmse": Metric("NMSE", 4, lambda sums: sums.square / sums.energy if sums.energy > 0 else 0.0),
}

REGIONS = ("", "_foreground")
"""Suffixes: the whole volume, and the head or brain in the real target."""

METRIC_NAMES = tuple(f"{name}{region}" for region in REGIONS for name in METRICS)
PERSONAL_METRIC_NAMES = tuple(f"personal_{name}" for name in METRIC_NAMES)
TISSUES = {
    "tumour": ("brasyn_ssim", "ssim", "psnr_db", "mae"),
    "healthy": ("brasyn_ssim", "ssim", "psnr_db", "mae"),
    "oedema": ("ssim", "psnr_db", "mae"),
    "enhancing": ("ssim", "psnr_db", "mae"),
}
"""{part of a head: its figures} of the final test, where tumours are segmented; see `agi_core.scoring`."""
TISSUE_METRIC_NAMES = tuple(f"{name}_{tissue}" for tissue, names in TISSUES.items() for name in names)
SEGMENTED = {"dice": "Dice", "lesion_dice": "Lesion-wise Dice", "lesion_hd95_mm": "Lesion-wise HD95 (mm)"}
SEGMENTED_TARGETS = ("WT", "TC", "ET")  # whole tumour, tumour core, enhancing tumour
SEGMENTED_ROWS = {
    "ceiling": "four real scans",
    "synthetic": "three real, one synthetic",
    "regression": "three real, one by voxel regression",
    "floor": "three real, one black",
}
"""What a segmentation network is given; see `agi_core.scoring.rows`."""
SEGMENTED_METRIC_NAMES = tuple(
    f"{figure}_{target}_{row}" for figure in SEGMENTED for target in SEGMENTED_TARGETS for row in SEGMENTED_ROWS
)
"""Of the final test, where the task asks for a segmentation network that the site has."""
FAULTY = "faulty"
"""Of the final test: the share of volumes whose prediction is constant or saturated within the head."""
VALIDATION_METRIC_NAMES = tuple(f"validation_{name}" for name in METRIC_NAMES)


def is_possible(name: str, value: float) -> bool:
    """Whether a figure that a site tells can have this value. Root mean squares are of differences of values in [0, 1];
    counts, losses and seconds are not negative."""
    words = name.removeprefix("validation_").removeprefix("personal_").removeprefix("brasyn_")
    for region in (REGIONS[-1], *(f"_{tissue}" for tissue in TISSUES)):
        words = words.removesuffix(region)
    metric = METRICS.get(words)
    if metric is None:
        is_part = name == FAULTY or name.startswith(("rms_", "dice_", "lesion_dice_"))
        return 0 <= value <= (1 if is_part else math.inf)
    return metric.lowest <= value <= metric.highest
