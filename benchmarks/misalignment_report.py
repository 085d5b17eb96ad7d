"""Tables and figure of the misalignment benchmark.

Intervals are 95 % Student t of a mean over seeds and subjects, both taken as random:
SE^2 = var(means of seeds) / seeds + var(means of subjects) / subjects, with the smaller number less one as degrees of
freedom. That counts what is left within a cell twice, so intervals are rather too wide. p is this test of the
difference to plain, paired by seed and subject.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from agi_core.host import atomic

FloatArray = npt.NDArray[np.float64]
Results = Mapping[tuple[str, int], Mapping[str, Any]]
"""{(variant, seed): content of its file}"""


def tables(
    results: Results, names: Sequence[str], seeds: Sequence[int], *, main: Mapping[str, str], tests: Sequence[str]
) -> str:
    """Markdown: each variant in its test of `main` with intervals and against plain in plain's, PSNR in every test, and
    how far recovered offsets are off. Variants without all seeds are left out."""
    complete = [name for name in names if all((name, seed) in results for seed in seeds)]
    lines = [
        "| model | test | PSNR dB | SSIM | MAE | PSNR minus plain, dB | p | CPU time of a step, x plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in complete:
        cells = [name, main[name]]
        for metric, digits in (("psnr_db", 2), ("ssim", 4), ("mae", 4)):
            mean, half, _ = interval(values_of(results, name, seeds, main[name], metric))
            cells.append(f"{mean:.{digits}f} ± {half:.{digits}f}")
        cells += minus_plain(results, name, seeds, main) if "plain" in complete else ["", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "PSNR in dB in every test:", "", *_by_test(results, complete, seeds, tests, "psnr_db")]
    laid = [name for name in complete if "psnr_registered_db" in _any(results, name, seeds, main[name])]
    if laid:
        lines += ["", "PSNR in dB against the target registered to the prediction:", ""]
        lines += _by_test(results, laid, seeds, tests, "psnr_registered_db")
    aligned = [name for name in complete if "offset_error_mm" in _any(results, name, seeds, main[name])]
    if aligned:
        measured = [test for test in tests if "offset_error_mm" in _any(results, aligned[0], seeds, test)]
        for unit in ("px", "mm"):
            title = f"Error of the recovered in-plane offsets, median over the head, in {unit}:"
            lines += ["", title, "", *_by_test(results, aligned, seeds, measured, f"offset_error_{unit}")]
    return "\n".join(lines) + "\n"


def values_of(results: Results, name: str, seeds: Sequence[int], test: str, metric: str) -> FloatArray:
    """(seeds, subjects)"""
    rows = [results[name, seed]["scores"][test] for seed in seeds]
    return np.array([[row[subject][metric] for subject in sorted(row)] for row in rows])


def interval(values: FloatArray) -> tuple[float, float, float]:
    """Mean of (seeds, subjects), half its 95 % interval, and the p of its being 0; see the module."""
    seeds, subjects = values.shape
    variance, freedom = values.mean(axis=0).var(ddof=1) / subjects, subjects - 1
    if seeds > 1:
        variance += values.mean(axis=1).var(ddof=1) / seeds
        freedom = min(seeds, subjects) - 1
    mean, error = float(values.mean()), float(np.sqrt(variance))
    p = 2 * float(student_t.sf(abs(mean) / error, freedom)) if error else float("nan")
    return mean, float(student_t.ppf(0.975, freedom)) * error, p


def minus_plain(results: Results, name: str, seeds: Sequence[int], main: Mapping[str, str]) -> list[str]:
    """[PSNR minus plain's with its interval, p, ratio of step times]"""
    if name == "plain":
        return ["", "", "1"]
    own, plain = (values_of(results, n, seeds, main[n], "psnr_db") for n in (name, "plain"))
    mean, half, p = interval(own - plain)
    ratio = median(results[name, seed]["step_cpu_s"] / results["plain", seed]["step_cpu_s"] for seed in seeds)
    return [f"{mean:+.2f} ± {half:.2f}", f"{p:.2g}", f"{ratio:.2f}"]


def _by_test(
    results: Results, names: Sequence[str], seeds: Sequence[int], tests: Sequence[str], metric: str
) -> list[str]:
    """Lines of a table: means over seeds and subjects, variants down and tests across."""
    lines = [f"| model | {' | '.join(tests)} |", "|---" * (len(tests) + 1) + "|"]
    for name in names:
        cells = [f"{values_of(results, name, seeds, test, metric).mean():.2f}" for test in tests]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _any(results: Results, name: str, seeds: Sequence[int], test: str) -> Mapping[str, float]:
    """What one subject's row holds."""
    row: Mapping[str, float] = next(iter(results[name, seeds[0]]["scores"][test].values()))
    return row


def draw_figure(
    path: Path,
    results: Results,
    names: Sequence[str],
    seeds: Sequence[int],
    *,
    curve: Mapping[float, str],
    bars: Sequence[str],
) -> None:
    """PSNR against the translation ({pixels: test}), and how much the other tests lose to no translation."""
    complete = [name for name in names if all((name, seed) in results for seed in seeds)]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 4))
    for index, name in enumerate(complete):
        means = [values_of(results, name, seeds, test, "psnr_db").mean() for test in curve.values()]
        left.plot(list(curve), means, marker="o", label=name, color=f"C{index % 10}")
        lost = [means[0] - values_of(results, name, seeds, test, "psnr_db").mean() for test in bars]
        width = 0.8 / len(complete)
        right.bar(np.arange(len(bars)) - 0.4 + width * (index + 0.5), lost, width=width, color=f"C{index % 10}")
    left.set(xlabel="translation of the moved source, px", ylabel="PSNR, dB")
    left.legend(fontsize="x-small")
    right.set(xticks=range(len(bars)), ylabel="PSNR lost, dB")
    right.set_xticklabels(bars, fontsize="small")
    with atomic.replacing(path) as temporary_path:
        figure.savefig(temporary_path, dpi=110)
