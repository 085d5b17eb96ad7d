"""Figures of the report: curves, comparison of methods, and images, each as a data URI. No file, no display."""

import base64
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from agi_core.report.blocks import MOST_PLACES, Line, Place, places
from agi_core.report.examples import Image
from agi_core.report.record import RunRecord
from agi_core.run.scores import Scores

ERROR_SCALE = 0.25  # absolute error that is shown brightest, in every report
ARROW_SCALE = 4  # an arrow is so many times as long as the offset it shows
_ERROR_COLOURS = "inferno"
_ARROW_STEP_MM = 12.0
_EDGE_COLOUR = (1.0, 0.6, 0.1)
_INK = "#1b2733"
# Okabe and Ito: colour-blind safe
_SITE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B4C9A")
MAX_COLOURED = len(_SITE_COLOURS)  # sites that one plot can tell apart
_DASHED: Mapping[str, Any] = {"color": _INK, "linestyle": (0, (4, 2))}  # a line that is of no site
_METHOD_MARKS = {  # marker, colour
    "federated": ("o", "#123a5c"),
    "personal": ("*", "#0072B2"),
    "initial_weights": ("v", "#b39b5a"),
    "voxel_regression": ("s", "#7d8894"),
    "regression_pooled": ("x", "#7d8894"),
    "regression_per_site": ("P", "#7d8894"),
    "local_only": ("^", "#D55E00"),
    "centralised": ("D", "#009E73"),
    "public_own_last_layer": ("X", "#56B4E9"),
    "without_privacy": ("P", "#7A4E9C"),
}
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "report",  # equal runs give equal files
    "text.parse_math": False,  # a site name is never a formula
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#8a97a5",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dfe5eb",
    "xtick.color": "#4a5866",
    "ytick.color": "#4a5866",
}


def site_colour(sites: Sequence[str], site: str) -> str:
    """The colour of a training site in all of the report; of more than `MAX_COLOURED` sites none has its own."""
    return _SITE_COLOURS[sites.index(site)] if len(sites) <= MAX_COLOURED else _INK


def lines(record: RunRecord) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]:
    """Validation PSNR and training loss, each as {site: {round: value}}."""
    psnr = {n: {site: its.psnr_db for site, its in event.sites.items()} for n, event in record.validation.items()}
    return _by_site(psnr), _by_site({n: event.train_loss for n, event in record.rounds.items()})


@matplotlib.rc_context(_STYLE)
def curves(record: RunRecord) -> str:
    """Validation PSNR and training loss per site and round, as an SVG data URI; there must be one of them. A line
    breaks where its site was missing. Of many rounds, a line is the mean of neighbours, in a band of what they span."""
    psnr, loss = lines(record)
    panels = (("Validation", "PSNR (dB)", psnr), ("Training", "loss (mean of the round)", loss))
    shown = [panel for panel in panels if panel[2]]
    sites, handles = record.config.federation.sites, {}
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    for axes, (title, label, of_sites) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        rounds = sorted({n for line in of_sites.values() for n in line})
        marker = "o" if len(rounds) <= MOST_PLACES else ""
        for site in sorted(of_sites):
            colour = site_colour(sites, site)
            middle, low, mean, high = _places(of_sites[site], rounds)
            (handles[site],) = axes.plot(middle, mean, marker=marker, markersize=4, color=colour, linewidth=1.8)
            if not marker:
                axes.fill_between(middle, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set(title=title, xlabel="round", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(psnr) > 1:
        mean = {n: event.mean["psnr_db"] for n, event in record.validation.items() if event.mean}
        (handles["mean over subjects"],) = figure.axes[0].plot(*_xy(mean), **_DASHED, linewidth=1.2)
    columns = min(len(handles), 6)
    figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=columns, frameon=False)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def comparison(methods: Mapping[str, tuple[str, Scores]]) -> str:
    """Test PSNR per site of several methods ({method: (name, scores)}), one row per site, as an SVG data URI."""
    seen = {site: "" for _, scores in methods.values() for site in scores.sites}
    unseen = {site: " (unseen)" for _, scores in methods.values() for site in scores.unseen_sites}
    labels = seen | unseen
    figure, axes = _rows([site + suffix for site, suffix in labels.items()], around=1.3)
    handles = []
    for method, (_, scores) in methods.items():
        marker, colour = _METHOD_MARKS[method]
        shown, ours = {**scores.sites, **scores.unseen_sites}, method == "federated"
        handles += axes.plot(
            [score.psnr_db for score in shown.values()],
            [list(labels).index(site) for site in shown],
            linestyle="",
            marker=marker,
            markersize=8,
            color=colour,
            markerfacecolor=colour if ours else "white",
            markeredgewidth=1.8,
            zorder=3 if ours else 2,
        )
    axes.set(xlabel="test PSNR, whole volume (dB)")
    figure.legend(handles, [name for name, _ in methods.values()], loc="outside upper left", ncols=4, frameon=False)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def epsilons(spent: Mapping[str, Mapping[str, float]], *, budget: float, sites: Sequence[str]) -> str:
    """Bars of each site's epsilon, all runs pale and this run strong, and the budget as a line, as an SVG data URI."""
    figure, axes = _rows([*spent], around=1.1)
    colours = [site_colour(sites, site) for site in spent]
    for name, alpha in (("epsilon", 0.35), ("epsilon_run", 1.0)):
        values = [row[name] for row in spent.values()]
        axes.barh(range(len(spent)), values, height=0.6, color=colours, alpha=alpha)
    axes.axvline(budget, **_DASHED, linewidth=1.4)
    axes.set(xlabel="epsilon (dashed: the budget of this run; pale: earlier runs)")
    return _svg(figure)


def grey(image: Image) -> str:
    """An image of [0, 1] in grey, black to white, as a WebP data URI; one pixel per voxel."""
    return _webp(np.clip(image, 0, 1), "gray")


def error_map(prediction: Image, target: Image) -> str:
    """|prediction - target| on the fixed scale 0 to ERROR_SCALE as a WebP data URI."""
    return _webp(np.clip(np.abs(prediction - target) / ERROR_SCALE, 0, 1), _ERROR_COLOURS)


def error_scale() -> str:
    """The colours of `error_map` from 0 (left) to ERROR_SCALE (right) as a WebP data URI."""
    return _webp(np.linspace(0, 1, 256)[None, :], _ERROR_COLOURS)


def overlay(image: Image, edges_of: Image) -> str:
    """An image in grey with the edges of another one in orange as a WebP data URI; both (H, W) in [0, 1]."""
    strength = np.hypot(*np.gradient(np.asarray(edges_of, dtype=np.float64)))
    strongest = np.percentile(strength, 97) or 1.0
    opacity = np.clip(strength / strongest, 0, 1)[..., None] ** 2
    return _webp((1 - opacity) * np.clip(image, 0, 1)[..., None] + opacity * _EDGE_COLOUR)


def arrows(image: Image, offset_mm: Image, *, where: NDArray[np.bool_], spacing_mm: tuple[float, float]) -> str:
    """Offsets (2, H, W) towards (anterior, right) as arrows over an image (H, W), inside of `where`, as a data URI of a
    WebP.

    All are as `Example.as_seen` gives them. An arrow starts where the moved source is needed and points to where it is
    found.
    """
    (rows, columns), (row_mm, column_mm) = image.shape, spacing_mm
    height_mm, width_mm = rows * row_mm, columns * column_mm
    step = [max(round(_ARROW_STEP_MM / mm), 1) for mm in spacing_mm]
    row, column = np.mgrid[step[0] // 2 : rows : step[0], step[1] // 2 : columns : step[1]]
    row, column = row[where[row, column]], column[where[row, column]]
    anterior_mm, right_mm = offset_mm[:, row, column]
    figure = Figure(figsize=(3, 3 * height_mm / width_mm), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(0, width_mm, 0, height_mm), aspect="auto")
    axes.quiver(
        (column + 0.5) * column_mm,
        height_mm - (row + 0.5) * row_mm,
        -right_mm,
        anterior_mm,
        angles="xy",
        scale_units="xy",
        scale=1 / ARROW_SCALE,
        color=_EDGE_COLOUR,
        width=0.005,
    )
    axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", pil_kwargs={"quality": 90})
    return _data_uri("image/webp", buffer.getvalue())


@matplotlib.rc_context(_STYLE)
def spectra(frequency: Image, power: Mapping[str, Image]) -> str:
    """Power in dB over frequency (cycles per mm) of {name: power}, as an SVG data URI."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes: Axes = figure.subplots()
    for (name, values), colour in zip(power.items(), (_INK, _SITE_COLOURS[1]), strict=True):
        power_db = 10 * np.log10(np.maximum(values, 1e-12))
        axes.plot(frequency, power_db, label=name, color=colour, linewidth=1.8)
    axes.set(xlabel="frequency (cycles per mm)", ylabel="power (dB)")
    axes.legend(frameon=False)
    return _svg(figure)


def _rows(labels: Sequence[str], *, around: float) -> tuple[Figure, Axes]:
    """A figure of one row per label, the first on top, with so many inches around the rows."""
    figure = Figure(figsize=(10, around + 0.36 * len(labels)), layout="constrained")
    axes: Axes = figure.subplots()
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    return figure, axes


def _by_site(rounds: Mapping[int, Mapping[str, float]]) -> dict[str, dict[int, float]]:
    """{round: {site: value}} turned to {site: {round: value}}."""
    return {
        site: {n: row[site] for n, row in rounds.items() if site in row}
        for site in sorted({s for row in rounds.values() for s in row})
    }


def _places(line: Line, rounds: Sequence[int]) -> NDArray[np.float64]:
    """The places of a line as (4, N): round, low, mean, high; NaN where it breaks."""
    gap = Place(*[math.nan] * 4)
    return np.array([place for piece in places(line, rounds) for place in (*piece, gap)]).T


def _xy(values: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return sorted(values), [values[n] for n in sorted(values)]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has other fonts than matplotlib
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    family = "font-family: system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
    return _data_uri("image/svg+xml", re.sub(r"font-family: [^;\"]*", family, buffer.getvalue()).encode())


def _webp(values: Image, colours: str | None = None) -> str:
    """(H, W) in a colour map, or (H, W, 3) as it is; in [0, 1]. Without loss, in half the bytes of a PNG."""
    buffer = io.BytesIO()
    imsave(buffer, values, cmap=colours, vmin=0, vmax=1, format="webp", pil_kwargs={"lossless": True})
    return _data_uri("image/webp", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
