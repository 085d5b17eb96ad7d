"""Run record: the contents of a run folder, sorted for showing. An unfinished run has fewer of them."""

import datetime
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from agi_core.cells import whole_of
from agi_core.config.schema import DEPLOYMENT, RunConfig
from agi_core.models.model_config import name_of
from agi_core.report.participation import Part, Participation, participation
from agi_core.run import events, run_folder
from agi_core.run.event_log import read_events, read_times
from agi_core.run.run_folder import Environment
from agi_core.run.scores import Best, Scores
from agi_core.run.summary import read_summary

E = TypeVar("E", bound=events.Event)


@dataclass(frozen=True)
class Problem:
    """Something that went wrong at one site."""

    site: str
    round: int
    text: str
    at: datetime.datetime | None = None


@dataclass(frozen=True)
class RunRecord:
    """One run. `rounds` and `validation` are by round; round 0 of `validation` is the untrained model."""

    run_dir: Path
    config: RunConfig
    environment: Environment
    finished: bool
    synthetic: bool | None  # None: not noted
    anatomies: int | None
    wall_s: float
    splits: Mapping[str, Mapping[str, int]]  # {site: {"train", "validation", "test": subjects}}
    skipped: Mapping[str, int]  # {reason: scans}
    validation: Mapping[int, events.ModelValidated]
    rounds: Mapping[int, events.RoundFinished]
    participation: Participation
    began: datetime.datetime | None  # None: not noted
    ended: datetime.datetime | None
    federated: Scores | None  # None: not tested yet
    personal: Scores | None  # of each site's own last layer
    interval: events.IntervalSolved | None  # None: nobody was asked yet, or it is a private run
    known_range: events.RangeLearnt | None  # the same
    last_layer: events.LastLayerSolved | None  # of the common model; None: nobody was asked
    styles: events.LastLayersShared | None  # the same
    suppressed: Sequence[str]  # sites that hold test figures back
    tested_round: int  # the tested model is the one after this round: the last, or the best where that was worse
    privacy: Mapping[str, Mapping[str, float]]  # {site: {kind of epsilon: value}}; empty where sites do not tell
    baselines: Mapping[str, Scores]
    best: Best | None  # by validation
    problems: Sequence[Problem]
    warnings: Sequence[str]

    @property
    def deployed(self) -> bool:
        """Whether the sites were real ones, whose scans the writer of this record has never seen."""
        return self.config.engine == DEPLOYMENT

    @property
    def trained(self) -> list[str]:
        """The sites that trained in at least one round."""
        return [site for site, parts in self.participation.items() if Part.TRAINED in parts.values()]

    @property
    def training_subjects(self) -> dict[str, int]:
        """{site: its training subjects}, as the site counted them last; only of sites that trained."""
        return {site: n for event in self.rounds.values() for site, n in event.subjects.items()}

    @property
    def resume_command(self) -> str:
        """How to go on with an unfinished run; a cell goes on with its whole run."""
        if self.deployed:
            return f"python -m server resume {whole_of(self.run_dir).name}"
        return f"python simulations/run.py --out {whole_of(self.run_dir)} --resume"

    @property
    def model_name(self) -> str:
        """The network's name: no result of plain convolutions is called AGI-Net."""
        return name_of(self.config.model)


def read_run(run_dir: Path) -> RunRecord:
    """Read a run folder, finished or not.

    Raises:
        RunError: there is no run in the folder, or one of its files is damaged.
    """
    config, log = run_folder.open_existing(run_dir), read_events(run_dir)
    times = read_times(run_dir)
    happened, summary, splits = [event for _, event in log], read_summary(run_dir), run_folder.read_splits(run_dir)
    subject_ids = {subject for parts in splits.values() for ids in parts.values() for subject in ids}

    def all_of(kind: type[E]) -> list[E]:
        return [event for event in happened if isinstance(event, kind)]

    tested, found = summary or _last(all_of(events.ModelTested)), _last(all_of(events.DataFound))
    went_back = all_of(events.ModelRolledBack)
    best = tested.best if tested else None
    if best:  # after the last round a run may have gone back to it
        best = replace(best, round=events.made_in(went_back, round=best.round))
    origin = summary if summary and summary.synthetic is not None else found
    baselines = {event.name: event.scores for event in all_of(events.BaselineFinished)}
    return RunRecord(
        run_dir=run_dir,
        config=config,
        environment=run_folder.read_environment(run_dir),
        finished=summary is not None,
        synthetic=origin.synthetic if origin else None,
        anatomies=origin.anatomies if origin else None,
        wall_s=summary.wall_s if summary else log[-1].t_s if log else 0.0,
        splits={site: {part: len(ids) for part, ids in parts.items()} for site, parts in splits.items()},
        skipped=found.skipped if found else {},
        # After a resume a round may stand twice in the log: the last one counts.
        validation={event.round: event for event in all_of(events.ModelValidated)},
        rounds={event.round: event for event in all_of(events.RoundFinished)},
        participation=participation(happened, config.federation.sites),
        began=times[0] if times else None,
        ended=times[-1] if times else None,
        federated=tested.scores if tested else None,
        personal=tested.personal if tested else None,
        interval=_last(all_of(events.IntervalSolved)),
        known_range=_last(all_of(events.RangeLearnt)),
        last_layer=_last(all_of(events.LastLayerSolved)),
        styles=_last(all_of(events.LastLayersShared)),
        suppressed=tested.suppressed if tested else (),
        tested_round=events.made_in(went_back, round=config.rounds),
        privacy=summary.privacy if summary else {},
        baselines=summary.baselines if summary and summary.baselines else baselines,
        best=best,
        problems=[replace(p, text=without_ids(p.text, subject_ids)) for p in _problems(happened, times)],
        warnings=[
            *(summary.flags if summary else ()),
            *dict.fromkeys(without_ids(event.text, subject_ids) for event in all_of(events.Warned)),
        ],
    )


def without_ids(text: str, subject_ids: Iterable[str]) -> str:
    """The text with every subject id as a whole word replaced: a report may leave the hospital."""
    for subject_id in sorted(subject_ids, key=len, reverse=True):
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(subject_id)}(?![A-Za-z0-9])", "(subject)", text)
    return text


def _last(happened: Sequence[E]) -> E | None:
    return happened[-1] if happened else None


def _problems(happened: Sequence[events.Event], times: Sequence[datetime.datetime | None]) -> list[Problem]:
    """Failures and decisions in the order of events, each once. A site that has failed is not listed again as
    missing."""
    failed = {(event.site, event.round, event.action) for event in happened if isinstance(event, events.SiteFailed)}
    problems: dict[Problem, Problem] = {}
    for event, at in zip(happened, times, strict=True):
        for problem in _problems_of(event, failed):
            problems.setdefault(problem, replace(problem, at=at))
    return [*problems.values()]


def _problems_of(event: events.Event, failed: Container[tuple[str, int, str]]) -> Iterator[Problem]:
    match event:
        case events.SiteFailed(site=site, round=round):
            yield Problem(site, round, f"{event.action} failed: {event.reason}")
        case events.SiteMissing(site=site, round=round, action=action):
            if (site, round, action) not in failed:
                yield Problem(site, round, event.reason or f"no answer to {action}")
        case events.UpdateRefused(site=site, round=round):
            yield Problem(site, round, f"update refused: {event.reason}")
        case events.UpdateClipped(site=site, round=round):
            yield Problem(site, round, f"update cut down: {event.reason}")
        case events.SiteQuarantined(site=site, round=round):
            yield Problem(site, round, "in quarantine from here on: three replies were refused, in this run or before")
        case events.SiteSatOut(site=site, round=round):
            yield Problem(site, round, f"sits out of {event.action} from here on: {event.reason}")
        case events.ModelRolledBack(round=round, to=best):
            for site in event.sites:
                yield Problem(
                    site, round, f"the model after this round was worse here: back to the one after round {best}"
                )
        case events.PriorSolved(sites=[], why=why):
            yield Problem("–", 0, f"{why or 'no site told statistics'}, so the common prior stays as it was")
        case events.RunPaused(round=round, reason=reason):
            yield Problem("–", round, f"the run paused: {reason}")
        case events.RunResumed(round=round):
            yield Problem("–", round, "the run was interrupted, and went on after this round")
