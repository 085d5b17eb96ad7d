"""The gallery of one site: what a model makes of the site's own test subjects, beside the real scans, as one HTML file
that stays there. Other than the report it names subjects: the people who look at it may look at the scans."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from agi_core.metric_table import psnr_db
from agi_core.report import figures
from agi_core.report.examples import Example, Image
from agi_core.report.markup import db, pages, panels, paragraph, plural, section
from agi_core.report.page import write_page

_NOTICE = (
    '<p class="notice patient"><strong>PATIENT DATA</strong>: this page shows and names test subjects of this site.'
    " Keep it where the scans are, and give it to nobody.</p>"
)


@dataclass(frozen=True, eq=False)
class Shown:
    """A slice with the common model's prediction, and with that of the site's own last layer (H, W), if it has one."""

    example: Example
    own: Image | None


def write_gallery(path: Path, slices: Sequence[Shown], *, site: str, target: str, subjects: int) -> None:
    """Write the page. Raises RunError where it cannot be written.

    Args:
        subjects: how many test subjects the slices are of.
    """
    intro = (
        "Axial slices in the radiological view: anterior (A) at the top, the patient's right (R) on the left."
        " Intensities from 0 (black) to 1 (white), cut to the head. Global is the common model, own the same with the"
        f" last layer of this site. Absolute error from 0 (black) to {figures.ERROR_SCALE} (yellow)."
    )
    write_page(
        path,
        title=f"{site}: synthetic {target} of its own test subjects",
        kicker="Gallery, made and kept at this site",
        lead=f"{plural(len(slices), 'slice')} of {plural(subjects, 'subject')}. None of them was trained on.",
        contents="The page holds slices of scans and ids of subjects.",
        body_html=section("Slices", paragraph(intro) + pages(map(_slice, slices))),
        notices_html=_NOTICE,
    )


def _slice(shown: Shown) -> str:
    example = shown.example
    target = np.clip(example.target, 0, 1)
    images = [(name, "", figures.grey(example.as_seen(image))) for name, image in example.sources.items()]
    images.append(("Real", "", figures.grey(example.as_seen(target))))
    for name, prediction in (("Global", example.prediction), ("Own", shown.own)):
        if prediction is not None:
            seen = example.as_seen(np.clip(prediction, 0, 1))
            quality = db(psnr_db(float(np.mean((np.clip(prediction, 0, 1) - target) ** 2))))
            images.append((name, quality, figures.grey(seen)))
            images.append((f"{name}, error", "", figures.error_map(seen, example.as_seen(target))))
    heading = f"<h3>{escape(example.title)}</h3>"
    return f'<section class="example">{heading}{panels(images, title=example.title, aspect=example.aspect)}</section>'
