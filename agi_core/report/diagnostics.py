"""The section Diagnostics: what the model does inside, and what a mean over voxels hides.

It is made from the example slices. A part appears only where it has something to show: alignment needs a source that
the model moves, and attention needs CAGR convolutions. A deployed run has no example slices, and so no diagnostics.
"""

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from agi_core.report import figures
from agi_core.report.examples import Example, Image, MovedSource
from agi_core.report.markup import panels, paragraph, plot, row, section, table
from agi_core.report.sections import MAX_EXAMPLES

PLANES = ("axial", "coronal", "sagittal")


def diagnostics(shown: Sequence[Example]) -> str:
    """Alignment, attention, spectrum and through-plane consistency of the examples."""
    body = _alignment(shown) + _attention(shown) + _spectrum(shown) + _through_plane(shown)
    return section("Diagnostics", body or paragraph("There are none: they are made from the example slices."))


def _alignment(shown: Sequence[Example]) -> str:
    """Offsets of every moved source against the truth, and the source on the reference before and after."""
    moved = [(example, name, source) for example in shown for name, source in example.moved.items()]
    if not moved:
        return ""
    intro = paragraph(
        "The model moves each source onto the reference. The table shows the length of these offsets in mm over the"
        " head of the example slices. Where the true motion is known (built-in IXI-like data), it also shows their"
        " distance to it. A model that sees single slices moves them in the plane alone. In the pictures the reference"
        " is grey and the edges of the source are orange: before, they lie beside the reference's; after, on them. An"
        " arrow points from where a voxel is needed to where it is found in the plane, and is"
        f" {figures.ARROW_SCALE} times as long."
    )
    rows = [
        row(f"{escape(example.title)}, {escape(name)}", _lengths(example, source)) for example, name, source in moved
    ]
    columns = ("Moved source", "Predicted: median", "largest", "True: median", "Error: median", "90 % below")
    pictures = "".join(
        f'<section class="example"><h3>{escape(example.title)}</h3>{_before_and_after(example, name, source)}</section>'
        for example, name, source in moved[:MAX_EXAMPLES]
    )
    return f"<h3>Alignment</h3>{intro}{table(columns, rows)}{pictures}"


def _lengths(example: Example, source: MovedSource) -> list[str]:
    """Cells of a moved source: median and largest predicted offset, median true one, median and 90 % error."""
    head = example.foreground if example.foreground.any() else np.ones_like(example.foreground)
    true = source.true_offset_mm
    predicted_mm = np.linalg.norm(source.offset_mm, axis=0)[head]
    cells = [f"{np.median(predicted_mm):.2f} mm", f"{predicted_mm.max():.2f} mm"]
    if true is None:
        return [*cells, "unknown", "–", "–"]
    true = true[-len(source.offset_mm) :]  # what a model of single slices can follow: in the plane
    true_mm, error_mm = (np.linalg.norm(field, axis=0)[head] for field in (true, source.offset_mm - true))
    return [*cells, *(f"{mm:.2f} mm" for mm in (np.median(true_mm), np.median(error_mm), np.quantile(error_mm, 0.9)))]


def _before_and_after(example: Example, name: str, source: MovedSource) -> str:
    reference = next(modality for modality in example.sources if modality not in example.moved)
    fixed, moving = (example.as_seen(example.sources[modality]) for modality in (reference, name))
    aligned, in_plane_mm = example.as_seen(source.aligned), example.as_seen(source.offset_mm[-2:])
    head = example.as_seen(example.foreground)
    field = figures.arrows(aligned, in_plane_mm, where=head, spacing_mm=example.spacing_mm)
    images = [
        (f"{name} on {reference}, before", "", figures.overlay(fixed, moving)),
        (f"{name} on {reference}, after", "", figures.overlay(fixed, aligned)),
        ("Offsets", f"over the aligned {name}", field),
    ]
    return panels(images, title=example.title, aspect=example.aspect)


def _attention(shown: Sequence[Example]) -> str:
    """Mean attention of each group and layer over the examples' subjects."""
    shown = [example for example in shown if example.attention]  # the first slice of a subject has that of its scan
    layers = list(shown[0].attention) if shown else []
    if not layers:
        return ""
    rows = []
    for layer in layers:
        groups = shown[0].attention[layer]
        means = {name: np.mean([example.attention[layer][name] for example in shown]) for name in groups}
        rows.append(row(escape(layer), [", ".join(f"{name} {mean:.3f}" for name, mean in means.items())]))
    intro = paragraph(
        "The attention A of each group, in (0, 1): the mean over its channels and over one test subject of each site."
        " Before training it is 0.5. A multiplies the layer's kernel, so a group with a higher A counts for more than"
        " the kernel's own weights say."
    )
    return f"<h3>Cross-group attention</h3>{intro}{table(('Convolution', 'A of each group'), rows, kind='text')}"


def _spectrum(shown: Sequence[Example]) -> str:
    """Radial power spectrum of target and prediction, over all example slices."""
    if not shown:
        return ""
    coarsest_mm = max(max(example.spacing_mm) for example in shown)
    edges = np.linspace(0, 0.5 / coarsest_mm, min(min(example.target.shape) for example in shown) // 4 + 1)
    target, prediction = (
        radial_spectrum([getattr(example, kind) for example in shown], [e.spacing_mm for e in shown], edges=edges)
        for kind in ("target", "prediction")
    )
    frequency = (edges[1:] + edges[:-1]) / 2
    fine = slice(len(frequency) // 2, None)
    ours, theirs = (power[fine] @ frequency[fine] for power in (prediction, target))  # a ring's size grows with it
    share = ours / theirs if theirs else 1.0
    intro = paragraph(
        f"Mean over the example slices. In the finer half of the frequencies the prediction has {share:.0%} of the"
        " target's power. Below 100% it lacks detail, or the target's noise, which cannot be predicted."
    )
    uri = figures.spectra(frequency, {"target": target, "prediction": prediction})
    return f"<h3>Frequencies</h3>{intro}{plot(uri, alt='Radial power spectrum of target and prediction.')}"


def radial_spectrum(
    images: Sequence[Image], spacings_mm: Sequence[tuple[float, float]], *, edges: Image
) -> NDArray[np.float64]:
    """Mean power |FFT|^2 / pixels of images (H, W) without their means, in rings between `edges` (cycles per mm)."""
    total, count = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for image, (row_mm, column_mm) in zip(images, spacings_mm, strict=True):
        power = np.abs(np.fft.fft2(image - image.mean(), norm="ortho")) ** 2
        rows, columns = (np.fft.fftfreq(n, mm) for n, mm in zip(image.shape, (row_mm, column_mm), strict=True))
        radius = np.hypot(rows[:, None], columns)
        total += np.histogram(radius, edges, weights=power)[0]
        count += np.histogram(radius, edges)[0]
    return total / np.maximum(count, 1)


def _through_plane(shown: Sequence[Example]) -> str:
    """SSIM between neighbouring slices of the whole prediction against that of the whole target."""
    planes = [plane for plane in PLANES if any(plane in example.through_plane for example in shown)]
    if not planes:
        return ""
    rows = []
    for example in filter(lambda its: its.through_plane, shown):
        both = [example.through_plane.get(plane, (None, None)) for plane in planes]
        cells = ["–" if ssim is None else f"{ssim:.3f}" for pair in both for ssim in pair]
        rows.append(row(escape(example.title), cells))
    columns = [f"{plane.capitalize()}, {kind}" for plane in planes for kind in ("target", "prediction")]
    intro = paragraph(
        "SSIM between neighbouring slices within the head, of all slices of a subject. A prediction below its target"
        " jumps from slice to slice; one above it is smoother than the scan, noise included."
    )
    return f"<h3>Consistency through the plane</h3>{intro}{table(['Whole volume', *columns], rows)}"
