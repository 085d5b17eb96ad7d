"""The page of an evaluation: means with intervals, and slices, as one HTML file without scripts, network or ids."""

from collections.abc import Collection
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from agi_core.host import atomic
from agi_core.metric_table import SEGMENTED, SEGMENTED_TARGETS
from agi_core.report import figures
from agi_core.report.examples import Example
from agi_core.report.markup import bullets, db, panels, paragraph, plural, row, section, table
from agi_core.report.record import without_ids
from agi_core.report.sections import MAX_EXAMPLES
from agi_core.scoring.evaluation import Evaluation, share, written
from agi_core.scoring.figures import FIGURES, segmented_rows
from agi_core.scoring.volume import Scored

PAGE_NAME = "evaluation.html"

_MEANING = (
    "All figures but BraSyn's SSIM are on the scale of the real scan: 0 and 1 are its 0.5th and 99.5th percentile."
    " BraSyn's SSIM is that of the challenge: each volume is scaled by itself, masked, and averaged over the whole"
    " volume. Most of that volume is empty and counts as right, so even a black tumour has nearly 1; SSIM inside the"
    " tumour is the mean over the tumour's own voxels. The interval holds the mean of 95 % of such samples of subjects."
)


def write_page(out_dir: Path, evaluation: Evaluation, *, subject_ids: Collection[str]) -> Path:
    """Write the page, without any of these ids, and return its path. Raises RunError where it cannot be written."""
    modalities = ", ".join(sorted({scored.pair.modality for scored in evaluation.scored}))
    rows = [
        row(escape(FIGURES[name].label), [*written(name, mean), mean.subjects])
        for name, mean in evaluation.means.items()
        if not FIGURES[name].segmented
    ]
    notes = [without_ids(note, subject_ids) for note in evaluation.notes]
    body = (
        section("Figures", table(("", "Mean", "95 % interval", "Subjects"), rows) + paragraph(_MEANING)),
        _segmented(evaluation),
        section("Notes", bullets(notes) if notes else paragraph("None.")),
        section("Slices", _slices(evaluation)),
    )
    here = Path(__file__)
    page = Template(here.with_name("evaluation.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"Synthetic {modalities}"),
        style=here.with_name("style.css").read_text(encoding="utf-8"),
        lead=escape(f"{plural(len(evaluation.subject_ids), 'subject')}, {plural(len(evaluation.scored), 'volume')}."),
        body="".join(body),
    )
    atomic.write_text(out_dir / PAGE_NAME, page)
    return out_dir / PAGE_NAME


def _segmented(evaluation: Evaluation) -> str:
    """What a segmentation network finds with each stand-in; empty where none was used."""
    rows = [row(escape(name), cells) for name, cells in segmented_rows(evaluation.means)]
    if not rows:
        return ""
    shares = [f"Recovered share, {name}: {share(mean)}." for name, mean in evaluation.recovered_shares.items()]
    heads = ("Given", *(f"{label}, {target}" for label in SEGMENTED.values() for target in SEGMENTED_TARGETS))
    meaning = (
        f"Network {evaluation.segmenter}, means over subjects. WT whole tumour, TC tumour core, ET enhancing tumour."
        " Recovered share: (synthetic - floor) / (ceiling - floor), with a bootstrap interval over subjects."
    )
    return section("Segmentation", table(heads, rows) + bullets(shares) + paragraph(meaning))


def _slices(evaluation: Evaluation) -> str:
    shown = evaluation.scored[:MAX_EXAMPLES]
    intro = (
        f"The {plural(len(shown), 'volume')} with the lowest PSNR in the tumour (in the head without one), worst first,"
        f" of {len(evaluation.scored)}: the axial slice with most tumour, anterior (A) at the top, the patient's right"
        " (R) on the left." + (" The tumour's edge is orange." if any(its.pair.seg for its in shown) else "")
    )
    scale = (
        f'<p class="scale">Absolute error: 0 <img src="{figures.error_scale()}" alt="from black over red to yellow">'
        f" {figures.ERROR_SCALE} and above</p>"
    )
    return paragraph(intro) + scale + "".join(_example(n, scored) for n, scored in enumerate(shown, start=1))


def _example(number: int, scored: Scored) -> str:
    picture, title = scored.picture, f"Volume {number}, {scored.pair.modality}"
    slice_of = Example(
        site="",
        unseen=False,
        title=title,
        sources={},
        target=picture.real,
        prediction=picture.synthetic,
        foreground=picture.head,
        spacing_mm=picture.spacing_mm,
    )
    real, synthetic = slice_of.as_seen(picture.real), slice_of.as_seen(picture.synthetic)
    edges_of = slice_of.as_seen(picture.tumour).astype(np.float64)
    values = [f"{region} {db(scored.figures.get(f'psnr_db_{region}'))}" for region in ("head", "tumour")]
    images = []
    for name, image in (("Real", real), ("Synthetic", synthetic)):
        images.append((name, "", figures.grey(image)))
        if picture.tumour.any():
            images.append((name, "with the tumour's edge", figures.overlay(image, edges_of)))
    images.append(("Absolute error", f"0 to {figures.ERROR_SCALE}", figures.error_map(synthetic, real)))
    heading = f"<h3>{escape(title)}<small> PSNR {escape(', '.join(values))}</small></h3>"
    return f'<section class="example">{heading}{panels(images, title=title, aspect=slice_of.aspect)}</section>'
