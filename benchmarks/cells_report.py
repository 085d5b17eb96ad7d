"""The tables of the benchmark of cells."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agi_core.cells import Vocabulary
from agi_core.scenario import Scenario, parse_scenario
from benchmarks.cells_sites import Site
from benchmarks.target_pose import interval

Scores = Mapping[str, Mapping[str, tuple[float, float]]]  # {cell: {subject: (PSNR in dB, SSIM)}}


@dataclass(frozen=True)
class Result:
    """The scores of one seed, by variant; `singles` are those of {site/cell}, and `sites` who was dealt what."""

    vocabulary: Vocabulary
    sites: tuple[Site, ...]
    scores: Mapping[str, Scores]
    singles: Scores


def tables(results: Sequence[Result]) -> str:
    """All cells by variant; then what each variant gains over the best single site, for all test subjects, and for
    those of the sites that lack the target and have the sources."""
    cells = results[0].vocabulary.cells
    names = [*results[0].scores, *(["best single"] if results[0].singles else [])]
    lines = [f"PSNR in dB / SSIM, all test subjects, mean over {len(results)} seeds; intervals are over seeds.", ""]
    lines += [f"| cell | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for cell in cells:
        columns = []
        for name in names:
            psnr, ssim = zip(*(mean_score(scores_of(result, name, cell)) for result in results), strict=True)
            columns.append(f"{interval(psnr)} / {statistics.fmean(ssim):.3f}")
        trained = any(site.trains(cell) for site in results[0].sites)
        lines.append(f"| {cell}{'' if trained else ' *'} | {' | '.join(columns)} |")
    lines += ["", "\\* no site can train it."]
    if not results[0].singles:
        return "\n".join(lines) + "\n"
    others = [name for name in names if name != "best single"]
    for title, subjects_of in (("all test subjects", None), ("sites that lack the target", lacking)):
        rows = []
        for cell in cells:
            chosen = [None if subjects_of is None else subjects_of(result, cell) for result in results]
            if any(subjects == [] for subjects in chosen):
                continue
            columns = []
            for name in others:
                gains = [
                    mean_score(scores_of(result, name, cell), subjects)[0]
                    - mean_score(scores_of(result, "best single", cell), subjects)[0]
                    for result, subjects in zip(results, chosen, strict=True)
                ]
                columns.append(interval(gains))
            rows.append(f"| {cell} | {' | '.join(columns)} |")
        if rows:
            lines += ["", f"dB above the best single site: {title}.", ""]
            lines += [f"| cell | {' | '.join(others)} |", "|---" * (len(others) + 1) + "|", *rows]
    return "\n".join(lines) + "\n"


def scores_of(result: Result, name: str, cell: Scenario) -> Mapping[str, tuple[float, float]]:
    """{subject: scores} of a cell; of single sites, the best that makes its target from some of its sources."""
    if name != "best single":
        return result.scores[name][str(cell)]
    usable = []
    for key, scores in result.singles.items():
        other = parse_scenario(key.rpartition("/")[2])
        if other.target == cell.target and {*other.sources} <= {*cell.sources}:
            usable.append(scores)
    return max(usable, key=lambda scores: mean_score(scores)[0])


def mean_score(scores: Mapping[str, tuple[float, float]], subjects: Sequence[str] | None = None) -> tuple[float, float]:
    """Mean PSNR and SSIM, of these subjects or of all."""
    psnr, ssim = zip(*(scores[subject] for subject in (subjects or scores)), strict=True)
    return statistics.fmean(psnr), statistics.fmean(ssim)


def lacking(result: Result, cell: Scenario) -> list[str]:
    """Test subjects of the sites that have a cell's sources and lack its target."""
    return [
        subject_id
        for site in result.sites
        if cell.target not in site.modalities and site.modalities.issuperset(cell.sources)
        for subject_id in site.test
    ]
