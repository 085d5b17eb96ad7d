"""Synthetic volumes scored against real ones, from two folders to a table, a summary and a page of pictures."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agi_core.conformal import WANTED
from agi_core.host import atomic
from agi_core.metric_table import SEGMENTED, SEGMENTED_ROWS, SEGMENTED_TARGETS
from agi_core.scoring.figures import CONFIDENCE, FIGURES, Mean, means, recovered_shares, segmented_rows
from agi_core.scoring.pairs import Pair
from agi_core.scoring.volume import Intervals, Scored, score_pair
from agi_core.segmentation.segmenter import Segmenter

TABLE_NAME, SUMMARY_NAME = "subjects.csv", "summary.json"
_PLACE = ("subject", "session", "modality")
_COVERED = 0.02  # of the coverage, around what is wanted
_NAMED = 3  # volumes with one doubt
_LABEL = 1 + max(len(f"{row}: {given}") for row, given in SEGMENTED_ROWS.items())  # characters of the first column


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All scored pairs, worst first by PSNR in the tumour (in the head, where there is none), and what else should be
    known."""

    scored: Sequence[Scored]
    notes: Sequence[str]
    segmenter: str | None = None  # hash of the segmentation network

    @property
    def means(self) -> dict[str, Mean]:
        """Over subjects, by name of the figure."""
        return means((scored.pair.subject, scored.figures) for scored in self.scored)

    @property
    def recovered_shares(self) -> dict[str, Mean]:
        """By name of the figure and the target, such as `dice_WT`."""
        return recovered_shares((scored.pair.subject, scored.figures) for scored in self.scored)

    @property
    def subject_ids(self) -> set[str]:
        return {scored.pair.subject for scored in self.scored}


def evaluate(
    pairs: Sequence[Pair],
    *,
    notes: Sequence[str],
    percentiles: bool = False,
    segmenter: Segmenter | None = None,
    intervals: Intervals | None = None,
    on_pair: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score every pair.

    Args:
        notes: what is known already that the reader should know.
        percentiles, segmenter, intervals: see `score_pair`.
        on_pair: called with (done, all) after each pair.

    Raises:
        DataError: a pair cannot be scored; its file is named.
    """
    scored = []
    for done, pair in enumerate(pairs, start=1):
        scored.append(score_pair(pair, percentiles=percentiles, segmenter=segmenter, intervals=intervals))
        if on_pair is not None:
            on_pair(done, len(pairs))
    names: dict[str, list[str]] = {}
    for its in scored:
        for doubt in its.doubts:
            names.setdefault(doubt, []).append(its.pair.name)
    doubts = [f"{_named(its)}: {doubt}" for doubt, its in names.items()]
    if any(its.pair.seg for its in scored) and not any("mae_tumour" in its.figures for its in scored):
        doubts.append("no segmentation holds a tumour, and so there are no figures of one")
    if off := _off_coverage(means((its.pair.subject, its.figures) for its in scored)):
        doubts.append(f"the 90 % interval covers not 90 % of the voxels, but {off}")
    scored.sort(key=lambda its: its.figures.get("psnr_db_tumour", its.figures["psnr_db_head"]))
    return Evaluation(scored, [*notes, *doubts], segmenter.hash if segmenter else None)


def _off_coverage(by_name: Mapping[str, Mean]) -> str:
    """The coverage of the regions where it is far from what it should be."""
    covered = {name.removeprefix("coverage_"): its.mean for name, its in by_name.items() if "coverage_" in name}
    return ", ".join(f"{mean:.0%} in {region}" for region, mean in covered.items() if abs(mean - WANTED) > _COVERED)


def _named(volumes: Sequence[str]) -> str:
    more = len(volumes) - _NAMED
    return ", ".join(volumes[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def write_tables(out_dir: Path, evaluation: Evaluation, *, of: str) -> None:
    """Write `subjects.csv`, a row per visit whose figures are empty where they cannot be had, and `summary.json`.

    Args:
        of: what was scored, for the summary.
    """
    text = io.StringIO()
    had = {name for scored in evaluation.scored for name in scored.figures}
    table = csv.DictWriter(text, [*_PLACE, *(name for name in FIGURES if name in had)], lineterminator="\n")
    table.writeheader()
    for scored in sorted(evaluation.scored, key=lambda scored: (scored.pair.name, scored.pair.modality)):
        figures = {name: f"{value:.6g}" for name, value in scored.figures.items()}
        table.writerow({name: getattr(scored.pair, name) for name in _PLACE} | figures)
    atomic.write_text(out_dir / TABLE_NAME, text.getvalue())
    atomic.write_json(out_dir / SUMMARY_NAME, _summary(evaluation, of=of))


def _summary(evaluation: Evaluation, *, of: str) -> dict[str, Any]:
    return {
        "of": of,
        "modalities": sorted({scored.pair.modality for scored in evaluation.scored}),
        "subjects": len(evaluation.subject_ids),
        "visits": len(evaluation.scored),
        "interval": f"{CONFIDENCE:.0%} of the mean over subjects, Student's t",
        "figures": {name: mean._asdict() for name, mean in evaluation.means.items()},
        "segmenter": evaluation.segmenter,
        "recovered_shares": {name: mean._asdict() for name, mean in evaluation.recovered_shares.items()},
        "notes": list(evaluation.notes),
    }


def text_of(evaluation: Evaluation) -> str:
    """The means with their intervals, a line each, what was segmented, then the notes."""
    by_name = evaluation.means
    lines = [f"{'':{_LABEL}}{'mean':>10}   95 % interval over subjects"]
    for name, mean in by_name.items():
        if not FIGURES[name].segmented:
            value, interval = written(name, mean)
            lines.append(f"{FIGURES[name].label:{_LABEL}}{value:>10}   {interval:20} n = {mean.subjects}")
    if rows := segmented_rows(by_name):
        heads = "".join(f"{label:>24}" for label in SEGMENTED.values())
        lines += [
            "",
            f"{'segmentation with':{_LABEL}}{heads}",
            f"{'':{_LABEL}}{''.join(f'{t:>8}' for t in SEGMENTED_TARGETS) * len(SEGMENTED)}",
        ]
        lines += [f"{row:{_LABEL}}{''.join(f'{cell:>8}' for cell in cells)}" for row, cells in rows]
        lines += [f"recovered share, {name}: {share(mean)}" for name, mean in evaluation.recovered_shares.items()]
    return "\n".join([*lines, *(f"warning: {note}" for note in evaluation.notes)])


def share(mean: Mean) -> str:
    """A recovered share with its interval, in percent."""
    interval = "" if mean.low is None else f" ({mean.low:.0%} to {mean.high:.0%})"
    if mean.low is None and mean.subjects > 1:
        interval = " (no interval: the ceiling is hardly above the floor)"
    return f"{mean.mean:.0%}{interval}, n = {mean.subjects}"


def written(name: str, mean: Mean) -> tuple[str, str]:
    """A mean and its interval with the figure's decimals; the interval of one subject is empty."""
    decimals = FIGURES[name].decimals
    if mean.low is None:
        return f"{mean.mean:.{decimals}f}", ""
    return f"{mean.mean:.{decimals}f}", f"{mean.low:.{decimals}f} to {mean.high:.{decimals}f}"
