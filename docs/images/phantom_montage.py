"""Draw the picture of docs/phantom.md: axial slices of freshly made built-in data, two subjects per site."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from agi_core.data.phantom.scanner import SLICES, Layout
from agi_core.data.phantom.subject import ScannedSubject, scan_subject

SITES: dict[Layout, tuple[str, ...]] = {"ixi": ("Guys", "HH", "IOP"), "brats": ("A", "B")}
LABEL_COLOURS = ListedColormap(["#e41a1c", "#4daf4a", "#ffd92f"])  # core, oedema, enhancing


def main(out_path: Path) -> None:
    """Per row one subject: T1, T2, PD at two levels (IXI); t1n, t1c, t2w, t2f, labels through the tumour (BraTS)."""
    figure = Figure(figsize=(9.2, 17.0), facecolor="black")
    axes = figure.subplots(10, 6)
    rows = iter(axes)
    for layout, sites in SITES.items():
        for site in sites:
            for index in (0, 1):
                scanned = scan_subject(layout=layout, site=site, index=index, seed=0, grid=SLICES)
                draw = _draw_ixi if scanned.labels is None else _draw_brats
                draw(next(rows), scanned, f"{site}, {scanned.anatomy}")
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle("SYNTHETIC data of agi_core: 4 anatomies, 5 scanners", color="white", y=0.995)
    figure.subplots_adjust(0.002, 0.002, 0.998, 0.97, wspace=0.02, hspace=0.1)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=85)
    Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        out_path, optimize=True
    )


def _draw_ixi(row: Any, scanned: ScannedSubject, title: str) -> None:
    for axis, (level, modality) in zip(row, ((k, m) for k in (4, 11) for m in ("T1", "T2", "PD")), strict=True):
        _draw(axis, scanned.images[modality], level, f"{modality}, {title}")


def _draw_brats(row: Any, scanned: ScannedSubject, title: str) -> None:
    labels = scanned.labels
    assert labels is not None  # noqa: S101  # BraTS layout
    level = int((labels > 0).sum(axis=(0, 1)).argmax())
    for axis, modality in zip(row, ("t1n", "t1c", "t2w", "t2f", "t2f"), strict=False):
        _draw(axis, scanned.images[modality], level, f"{modality}, {title}")
    shown = np.ma.masked_equal(labels[::-1, :, level], 0)
    row[4].imshow(shown.T, cmap=LABEL_COLOURS, vmin=1, vmax=3, alpha=0.6, origin="lower", aspect=1.75 / 1.5)
    row[4].set_title("t2f and labels", color="white", fontsize=7, pad=2)


def _draw(axis: Any, image: NDArray[np.int16], level: int, title: str) -> None:
    """Anterior up, the patient's right on the left, as radiologists read."""
    window = np.percentile(image[image > 0], 99.5)
    axis.imshow(image[::-1, :, level].T, cmap="gray", vmin=0, vmax=window, origin="lower", aspect=1.75 / 1.5)
    axis.set_title(title, color="white", fontsize=7, pad=2)


if __name__ == "__main__":
    main(Path(__file__).with_suffix(".png"))
