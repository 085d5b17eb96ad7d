"""`summary.json` of a run over a vocabulary: what became of each cell, and how good it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agi_core.cells import folder_of, parse_vocabulary
from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.run.event_log import events_of
from agi_core.run.events import BlendSolved, BlendTested, CellNotHeld
from agi_core.run.json_objects import JsonObject
from agi_core.run.run_folder import open_existing
from agi_core.run.sanity import sanity_flags
from agi_core.run.scores import Scores, SiteScores, over_subjects
from agi_core.run.summary import FILE_NAME, read_summary
from agi_core.scenario import Scenario, parse_scenario

TRAINED, BLEND, NOBODY = "trained", "blend", "nobody"
BlendScores = tuple[Scores | None, Scores | None]


@dataclass(frozen=True, kw_only=True)
class CellResult(JsonObject):
    """What became of a cell: `trained`, a `blend`, or `nobody` can make it.

    Attributes:
        sites: those that trained it.
        experts: {trained cell: its weight} of a blend.
        measured: whether these weights follow from errors that sites told; else they are equal.
        scores: of the final test. Sites that did not train the cell stand in it as unseen.
        regression: the same of the cubic regression of its sources; of a blend, of its experts' regressions.
        said: of a blend in a deployed run, what it reached at which site, or why at none.
        flags: what is suspicious in the figures, and why nobody trained it where that is not by what sites offer.
        privacy: of the cell's own summary: what each site had spent after it, on this and earlier cells.
    """

    how: str
    sites: Sequence[str] = ()
    experts: Mapping[str, float] = field(default_factory=dict)
    measured: bool = True
    scores: Scores | None = None
    regression: Scores | None = None
    said: str = ""
    flags: Sequence[str] = ()
    privacy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def psnr_db(self, site: str | None = None) -> tuple[float | None, float | None]:
        """PSNR of the model and of the regression at a site; None: over all subjects of all sites that were scored, and
        of the regression where all of these told it."""
        ours, theirs = _everywhere(self.scores), _everywhere(self.regression)
        wanted = [*ours] if site is None else [site]
        return _psnr_db(ours, wanted), _psnr_db(theirs, wanted)


@dataclass(frozen=True, kw_only=True)
class StudySummary(JsonObject):
    """`cells` are by their scenario, in the vocabulary's order; `offers` = {site: the modalities that it offers};
    `delta` of the privacy, if there is any; `unseen_anatomy` is one on which nobody trained or validated."""

    scenario: str
    cells: Mapping[str, CellResult]
    offers: Mapping[str, Sequence[str]]
    synthetic: bool | None = None
    anatomies: int | None = None
    unseen_anatomy: str | None = None
    delta: float | None = None

    @property
    def epsilons(self) -> dict[str, float]:
        """{site: epsilon that all cells together have spent}; empty without privacy."""
        spent = [(site, its["epsilon"]) for cell in self.cells.values() for site, its in cell.privacy.items()]
        return dict(sorted(spent))  # the largest of a site comes last

    @property
    def scored_sites(self) -> list[str]:
        """Every site at which some cell was scored."""
        return sorted({site for cell in self.cells.values() for site in _everywhere(cell.scores)})

    def matrix(self, site: str | None = None) -> tuple[list[str], list[list[str]]]:
        """Targets, and for each subset of sources its name with the `entry` of its cell for each target; empty where
        the target is one of the sources."""
        vocabulary = parse_vocabulary(self.scenario)
        results = {parse_scenario(name): result for name, result in self.cells.items()}
        subsets = dict.fromkeys(sorted((cell.sources for cell in vocabulary.cells), key=len))
        targets = [*vocabulary.modalities]
        rows = []
        for sources in subsets:
            found = [results.get(Scenario(sources, target)) for target in targets]
            rows.append([", ".join(sources), *(entry(result, site) if result else "" for result in found)])
        return targets, rows


def entry(result: CellResult, site: str | None = None) -> str:
    """`22.10 (20.51) blend`: PSNR of the model, that of the regression, and what the cell is unless it was trained; at
    a site empty where it was not scored."""
    ours, regression = result.psnr_db(site)
    if ours is None:
        return result.how if site is None else ""
    beside = [] if regression is None else [f"({regression:.2f})"]
    return " ".join([f"{ours:.2f}", *beside, *([] if result.how == TRAINED else [result.how])])


def cell_results(run_dir: Path, *, score: Callable[[BlendSolved], BlendScores] | None = None) -> dict[str, CellResult]:
    """What became of each cell of a run, by its folder: trained cells have summaries of their own, blends have events.
    Of a blend `score` tells the scores of the model and of the regression; without it they are what sites have told.

    Raises:
        RunError: a trained cell has no summary yet.
    """
    vocabulary = parse_vocabulary(open_existing(run_dir).scenario)
    solved, tested, not_held = dict[str, BlendSolved](), dict[str, BlendTested](), dict[str, list[str]]()
    if (run_dir / "events.jsonl").is_file():
        not_held = {event.cell: [event.said] for event in events_of(run_dir, CellNotHeld)}
        solved = {event.cell: event for event in events_of(run_dir, BlendSolved)}
        tested = {event.cell: event for event in events_of(run_dir, BlendTested)}
    results = {}
    for cell in vocabulary.cells:
        if (folder_of(run_dir, cell) / "config.yaml").is_file():
            results[str(cell)] = _trained(folder_of(run_dir, cell))
        elif event := solved.get(str(cell)):
            told = tested.get(event.cell)
            scores, regression = score(event) if score else (told.scores if told else None, None)
            results[str(cell)] = CellResult(
                how=BLEND,
                experts=event.weights,
                measured=event.measured,
                scores=scores,
                regression=regression,
                said=told.said if told else "",
                flags=[*not_held.get(event.cell, ()), *_blend_flags(scores, regression)],
            )
        else:
            results[str(cell)] = CellResult(how=NOBODY, flags=not_held.get(str(cell), ()))
    return results


def _blend_flags(scores: Scores | None, regression: Scores | None) -> list[str]:
    """What is suspicious in a blend's scores. No site has trained it, so here they count as those of trained ones."""
    if scores is None:
        return []
    baselines = {"regression_pooled": Scores.over(regression.unseen_sites, {})} if regression else {}
    return sanity_flags(Scores.over(scores.unseen_sites, {}), baselines=baselines, validation_db=())


def _trained(cell_dir: Path) -> CellResult:
    summary = read_summary(cell_dir)
    if summary is None:
        raise RunError(f"the run in {cell_dir} has no summary; go on with it first")
    return CellResult(
        how=TRAINED,
        sites=open_existing(cell_dir).federation.sites,
        scores=summary.scores,
        regression=summary.baselines.get("regression_pooled"),
        flags=summary.flags,
        privacy=summary.privacy,
    )


def write_study_summary(run_dir: Path, summary: StudySummary) -> None:
    """Write `summary.json`; NaN and infinity are refused (ValueError)."""
    atomic.write_json(run_dir / FILE_NAME, summary.to_json())


def read_study_summary(run_dir: Path) -> StudySummary | None:
    """The summary of a run over a vocabulary; None where it has none yet. Raises RunError where it is damaged."""
    return StudySummary.read(run_dir / FILE_NAME)


def _everywhere(scores: Scores | None) -> SiteScores:
    return {**scores.sites, **scores.unseen_sites} if scores else {}


def _psnr_db(scores: SiteScores, sites: Sequence[str]) -> float | None:
    """Over all subjects of these sites; None where one of them was not scored."""
    if not {*sites} <= {*scores}:
        return None
    return over_subjects({site: scores[site] for site in sites}).get("psnr_db")
