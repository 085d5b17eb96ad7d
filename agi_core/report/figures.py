"""Figures of the report: curves, comparison of methods, and images, each as a data URI. No file, no display."""

import base64
import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from agi_core.report.examples import Image
from agi_core.report.record import RunRecord
from agi_core.run.scores import Scores

ERROR_SCALE = 0.25  # absolute error that is shown brightest, in every report
ARROW_SCALE = 4  # an arrow is so many times as long as the offset it shows
_ERROR_COLOURS = "inferno"
_ARROW_STEP_MM = 12.0
_EDGE_COLOUR = (1.0, 0.6, 0.1)
_INK, _GRID = "#1b2733", "#dfe5eb"
_SITE_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#6B4C9A",
)  # Okabe and Ito: colour-blind safe
_DASHES = ("-", "--", ":", "-.")
_METHOD_MARKS = {  # marker, colour
    "federated": ("o", "#123a5c"),
    "initial_weights": ("v", "#b39b5a"),
    "voxel_regression": ("s", "#7d8894"),
    "local_only": ("^", "#D55E00"),
    "centralised": ("D", "#009E73"),
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
    "grid.color": _GRID,
    "xtick.color": "#4a5866",
    "ytick.color": "#4a5866",
}


def site_colour(sites: Sequence[str], site: str) -> str:
    """The colour of a training site in all of the report; from the eighth site on they repeat, with other dashes."""
    return _SITE_COLOURS[sites.index(site) % len(_SITE_COLOURS)]


def curves(record: RunRecord) -> str | None:
    """Validation PSNR and training loss per site and round, as an SVG data URI; None before there are any."""
    validated = {n: event.sites for n, event in record.validation.items()}
    psnr = _by_site({n: {site: score.psnr_db for site, score in sites.items()} for n, sites in validated.items()})
    loss = _by_site({n: event.train_loss for n, event in record.rounds.items()})
    panels = [
        (title, label, lines)
        for title, label, lines in (
            ("Validation", "PSNR (dB)", psnr),
            ("Training", "loss (mean of the round)", loss),
        )
        if lines
    ]
    if not panels:
        return None
    sites = record.config.federation.sites
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 3.5), layout="constrained")
        handles: dict[str, Line2D] = {}
        for axes, (title, label, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for site in sorted(lines):
                dashes = _DASHES[sites.index(site) // len(_SITE_COLOURS) % len(_DASHES)]
                colour = site_colour(sites, site)
                (handles[site],) = axes.plot(
                    *_xy(lines[site]), color=colour, linestyle=dashes, marker="o", markersize=4, linewidth=1.8
                )
            axes.set(title=title, xlabel="round", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        mean = {n: event.mean["psnr_db"] for n, event in record.validation.items() if event.mean}
        if psnr and len(psnr) > 1:
            (line,) = figure.axes[0].plot(*_xy(mean), color=_INK, linewidth=1.2, linestyle=(0, (4, 2)))
            handles["mean over subjects"] = line
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=min(len(handles), 6), frameon=False
        )
        return _svg(figure)


def comparison(methods: Mapping[str, tuple[str, Scores]]) -> str:
    """Test PSNR per site of several methods ({method: (name, scores)}), one row per site, as an SVG data URI."""
    seen = {site: "" for _, scores in methods.values() for site in scores.sites}
    unseen = {site: " (unseen)" for _, scores in methods.values() for site in scores.unseen_sites}
    labels = seen | unseen
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 1.3 + 0.36 * len(labels)), layout="constrained")
        axes: Axes = figure.subplots()
        handles = []
        for method, (_, scores) in methods.items():
            marker, colour = _METHOD_MARKS[method]
            shown = {**scores.sites, **scores.unseen_sites}
            handles += axes.plot(
                [score.psnr_db for score in shown.values()],
                [list(labels).index(site) for site in shown],
                linestyle="",
                marker=marker,
                markersize=8,
                color=colour,
                markerfacecolor=colour if method == "federated" else "white",
                markeredgewidth=1.8,
                zorder=3 if method == "federated" else 2,
            )
        axes.set_yticks(range(len(labels)), [site + suffix for site, suffix in labels.items()])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set(xlabel="test PSNR, whole volume (dB)")
        figure.legend(handles, [name for name, _ in methods.values()], loc="outside upper left", ncols=4, frameon=False)
        return _svg(figure)


def epsilons(spent: Mapping[str, Mapping[str, float]], *, budget: float, sites: Sequence[str]) -> str:
    """Bars of each site's epsilon, all runs pale and this run strong, and the budget as a line, as an SVG data URI."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 1.1 + 0.36 * len(spent)), layout="constrained")
        axes: Axes = figure.subplots()
        for name, alpha in (("epsilon", 0.35), ("epsilon_run", 1.0)):
            axes.barh(
                range(len(spent)),
                [row[name] for row in spent.values()],
                height=0.6,
                color=[site_colour(sites, site) for site in spent],
                alpha=alpha,
            )
        axes.axvline(budget, color=_INK, linewidth=1.4, linestyle=(0, (4, 2)))
        axes.set_yticks(range(len(spent)), list(spent))
        axes.set_ylim(len(spent) - 0.5, -0.5)
        axes.set(xlabel="epsilon (dashed: the budget of this run; pale: earlier runs)")
        return _svg(figure)


def grey(image: Image) -> str:
    """An image of [0, 1] in grey, black to white, as a PNG data URI; one pixel per voxel."""
    return _png(np.clip(image, 0, 1), "gray")


def error_map(prediction: Image, target: Image) -> str:
    """|prediction - target| on the fixed scale 0 to ERROR_SCALE as a PNG data URI."""
    return _png(np.clip(np.abs(prediction - target) / ERROR_SCALE, 0, 1), _ERROR_COLOURS)


def error_scale() -> str:
    """The colours of `error_map` from 0 (left) to ERROR_SCALE (right) as a PNG data URI."""
    return _png(np.linspace(0, 1, 256)[None, :], _ERROR_COLOURS)


def overlay(image: Image, edges_of: Image) -> str:
    """An image in grey with the edges of another one in orange as a PNG data URI; both (H, W) in [0, 1]."""
    strength = np.hypot(*np.gradient(np.asarray(edges_of, dtype=np.float64)))
    strongest = np.percentile(strength, 97) or 1.0
    opacity = np.clip(strength / strongest, 0, 1)[..., None] ** 2
    return _png((1 - opacity) * np.clip(image, 0, 1)[..., None] + opacity * _EDGE_COLOUR)


def arrows(image: Image, offset_mm: Image, *, where: NDArray[np.bool_], spacing_mm: tuple[float, float]) -> str:
    """Offsets (2, H, W) towards (anterior, right) as arrows over an image (H, W), inside of `where`, as a PNG data URI.

    All are `as_seen`. An arrow starts where the moved source is needed and points to where it is found.
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
    figure.savefig(buffer, format="png")
    return _data_uri("image/png", buffer.getvalue())


def spectra(frequency: Image, power: Mapping[str, Image]) -> str:
    """Power in dB over frequency (cycles per mm) of {name: power}, as an SVG data URI."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        axes: Axes = figure.subplots()
        for (name, values), colour in zip(power.items(), (_INK, _SITE_COLOURS[1]), strict=True):
            power_db = 10 * np.log10(np.maximum(values, 1e-12))
            axes.plot(frequency, power_db, label=name, color=colour, linewidth=1.8)
        axes.set(xlabel="frequency (cycles per mm)", ylabel="power (dB)")
        axes.legend(frameon=False)
        return _svg(figure)


def as_seen(image: Image) -> Image:
    """From (anterior, right) axes to the radiological view: anterior at the top, the patient's right on the left."""
    return image[::-1, ::-1]


def _by_site(rounds: Mapping[int, Mapping[str, float]]) -> dict[str, dict[int, float]]:
    """{round: {site: value}} turned to {site: {round: value}}."""
    return {
        site: {n: row[site] for n, row in rounds.items() if site in row}
        for site in {s for row in rounds.values() for s in row}
    }


def _xy(values: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return sorted(values), [values[n] for n in sorted(values)]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(
        r"font-family: [^;\"]*", "font-family: system-ui, 'Segoe UI', Helvetica, Arial, sans-serif", buffer.getvalue()
    )
    return _data_uri("image/svg+xml", text.encode())


def _png(values: Image, colours: str | None = None) -> str:
    """(H, W) in a colour map, or (H, W, 3) as it is; in [0, 1]."""
    buffer = io.BytesIO()
    imsave(buffer, values, cmap=colours, vmin=0, vmax=1, format="png")
    return _data_uri("image/png", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
