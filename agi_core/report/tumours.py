"""The report's tables of tumours: how good predictions are in them, and what a segmentation network still finds."""

from collections.abc import Collection, Sequence

from agi_core.metric_table import (
    SEGMENTED,
    SEGMENTED_METRIC_NAMES,
    SEGMENTED_ROWS,
    SEGMENTED_TARGETS,
    TISSUE_METRIC_NAMES,
    TISSUES,
)
from agi_core.report.markup import paragraph, row, table
from agi_core.run.scores import Metrics
from agi_core.scoring.figures import FIGURES, LEAST_LOST, recovered_share

Told = Sequence[tuple[str, Metrics]]
"""(heading of a site in HTML, what it told)."""


def in_tissue(told: Told) -> str:
    """The figures in tumour and healthy tissue of the sites that have segmentations."""
    told = _telling(told, TISSUE_METRIC_NAMES)
    if not told:
        return ""
    names = TISSUES["tumour"]
    rows = [
        row(heading, [tissue, *(_figure(its, f"{name}_{tissue}") for name in names)])
        for heading, its in told
        for tissue in TISSUES
        if any(f"{name}_{tissue}" in its for name in names)
    ]
    meaning = (
        "BraSyn's SSIM is near 1 even for a black tumour: read SSIM inside beside it. Sites without segmentations are"
        " not listed."
    )
    heads = ["Site", "Where", "BraSyn's SSIM", "SSIM inside", "PSNR (dB)", "MAE"]
    caption = "In the tumour, its parts and healthy tissue, mean over the same subjects"
    return table(heads, rows, caption=caption, kind="where") + paragraph(meaning)


def segmented(told: Told, *, asked: str | None) -> str:
    """What the segmentation network that the run asks for finds in the test of the sites that have it."""
    if asked is None:
        return ""
    told = _telling(told, SEGMENTED_METRIC_NAMES)
    if not told:
        return paragraph(
            f"No site told what the segmentation network {asked} finds. A site needs that file (segmenter: in the site"
            " file), and of every test subject a segmentation and the four scans on one grid; it must offer all four."
        )
    figures_of = [f"{figure}_{target}" for figure in SEGMENTED for target in SEGMENTED_TARGETS]
    rows = []
    for heading, its in told:
        for name, given in SEGMENTED_ROWS.items():
            rows.append(row(heading, [given, *(_figure(its, f"{figure}_{name}") for figure in figures_of)]))
        for name, whose in (("synthetic", "recovered share"), ("regression", "recovered share of the regression")):
            rows.append(row(heading, [whose, *(_recovered(its, figure, name) for figure in figures_of)]))
    meaning = (
        f"The network is {asked}. WT whole tumour, TC tumour core, ET enhancing tumour. The recovered share is how much"
        " of what the missing scan costs the synthetic one gives back: (synthetic - black) / (real - black);"
        f" none where black costs less than {LEAST_LOST}. Sites without the network, or with a test subject that it"
        " cannot segment, are not listed."
    )
    groups = {label: len(SEGMENTED_TARGETS) for label in SEGMENTED.values()}
    heads = ["Site", "Given", *SEGMENTED_TARGETS * len(SEGMENTED)]
    caption = "What a segmentation network finds, mean over the same subjects"
    return table(heads, rows, groups=groups, caption=caption, kind="where") + paragraph(meaning)


def _recovered(told: Metrics, figure: str, name: str) -> str:
    """In percent; nothing of a distance, and where the network has hardly any use for the scan."""
    made, floor, ceiling = (told.get(f"{figure}_{given}") for given in (name, "floor", "ceiling"))
    if "_mm_" in figure or made is None or floor is None or ceiling is None:
        return "–"
    share = recovered_share(made, floor, ceiling)
    return "–" if share is None else f"{share:.0%}"


def _telling(told: Told, names: Collection[str]) -> Told:
    """Those who told some of these figures."""
    return [(heading, its) for heading, its in told if {*its} & {*names}]


def _figure(told: Metrics, name: str) -> str:
    return f"{told[name]:.{FIGURES[name].decimals}f}" if name in told else "–"
