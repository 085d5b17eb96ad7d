"""Run record: what the files of a run folder say, sorted for showing. An unfinished run has less of it."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agi_core.config.schema import DEPLOYMENT, RunConfig
from agi_core.errors import RunError
from agi_core.models.model_config import name_of
from agi_core.run import run_folder
from agi_core.run.run_folder import Event

Row = Mapping[str, Any]  # metric -> mean over subjects; of a site also "subjects" -> how many


@dataclass(frozen=True)
class Scores:
    """Final test of one method: the mean over the test subjects of the training sites, and each site's own mean."""

    final: Row
    sites: Mapping[str, Row]
    unseen_sites: Mapping[str, Row]

    @property
    def worst_site(self) -> str | None:
        """The training site with the lowest PSNR of the whole volume; None where none was scored."""
        return min(self.sites, key=lambda site: float(self.sites[site]["psnr_db"]), default=None)

    @property
    def subjects(self) -> int:
        return sum(row["subjects"] for row in self.sites.values())

    @property
    def unseen_psnr_db(self) -> float | None:
        """Mean over all subjects of the unseen sites; None where there are none."""
        rows = self.unseen_sites.values()
        subjects = sum(row["subjects"] for row in rows)
        return sum(row["psnr_db"] * row["subjects"] for row in rows) / subjects if subjects else None


@dataclass(frozen=True)
class Problem:
    """Something that went wrong at one site."""

    site: str
    round: int
    text: str


@dataclass(frozen=True)
class RunRecord:
    """One run. `rounds` and `validation` are keyed by round; round 0 of `validation` is the untrained model."""

    run_dir: Path
    config: RunConfig
    environment: Mapping[str, Any]
    finished: bool
    synthetic: bool | None  # None: not noted
    anatomies: int | None
    wall_s: float
    splits: Mapping[str, Mapping[str, int]]  # {site: {"train", "validation", "test": subjects}}
    skipped: Mapping[str, int]  # {reason: scans}
    validation: Mapping[int, Event]
    rounds: Mapping[int, Event]
    federated: Scores | None  # None: not tested yet
    suppressed: Sequence[str]  # sites that hold test figures back
    tested_round: int  # after which the tested model stood: the last, or where that was worse, the best
    privacy: Mapping[str, Mapping[str, float]]  # {site: epsilon, by whom it is known}; empty where sites do not tell
    baselines: Mapping[str, Scores]
    best: Mapping[str, Any] | None  # {"round", "psnr_db"} by validation
    problems: Sequence[Problem]
    warnings: Sequence[str]

    @property
    def deployed(self) -> bool:
        """Whether the sites were real ones, whose scans the writer of this record has never seen."""
        return self.config.engine == DEPLOYMENT

    @property
    def resume_command(self) -> str:
        """How to go on with an unfinished run."""
        if self.deployed:
            return f"python -m server resume {self.run_dir.name}"
        return f"python simulations/run.py --out {self.run_dir} --resume"

    @property
    def model_name(self) -> str:
        """The network's name: no result of plain convolutions is called AGI-Net."""
        return name_of(self.config.model)


def read_run(run_dir: Path) -> RunRecord:
    """Read a run folder, finished or not.

    Raises:
        RunError: there is no run in the folder, or one of its files is damaged.
    """
    config, events = run_folder.open_existing(run_dir), run_folder.read_events(run_dir)
    summary, environment, splits = (
        _read_json(run_dir / f"{name}.json") for name in ("summary", "environment", "splits")
    )
    subject_ids = {subject for parts in splits.values() for ids in parts.values() for subject in ids}

    def last(name: str) -> Event:
        return next((event for event in reversed(events) if event["event"] == name), {})

    def by_round(name: str) -> dict[int, Event]:  # after a resume a round may stand twice: the last one counts
        return {event["round"]: event for event in events if event["event"] == name}

    tested = summary or last("tested")
    baselines = summary.get("baselines") or {e["name"]: e for e in events if e["event"] == "baseline_finished"}
    origin = summary if "synthetic" in summary else last("data_found")
    warnings = (event["text"] for event in events if event["event"] == "warning")
    return RunRecord(
        run_dir=run_dir,
        config=config,
        environment=environment,
        finished=bool(summary),
        synthetic=origin.get("synthetic"),
        anatomies=origin.get("anatomies"),
        wall_s=float(summary["wall_s"] if summary else events[-1]["t_s"] if events else 0),
        splits={site: {part: len(ids) for part, ids in parts.items()} for site, parts in splits.items()},
        skipped=last("data_found").get("skipped", {}),
        validation=by_round("validated"),
        rounds=by_round("round_finished"),
        federated=_scores(tested) if tested else None,
        suppressed=tested.get("suppressed", []),
        tested_round=next(
            (e["to"] for e in events if e["event"] == "rolled_back" and e["round"] == config.rounds), config.rounds
        ),
        privacy=summary.get("privacy", {}),
        baselines={name: _scores(row) for name, row in baselines.items()},
        best=tested.get("best"),
        problems=[Problem(p.site, p.round, without_ids(p.text, subject_ids)) for p in _problems(events)],
        warnings=list(dict.fromkeys(without_ids(text, subject_ids) for text in warnings)),
    )


def without_ids(text: str, subject_ids: Iterable[str]) -> str:
    """The text with every subject id as a whole word replaced: a report may leave the hospital."""
    for subject_id in sorted(subject_ids, key=len, reverse=True):
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(subject_id)}(?![A-Za-z0-9])", "(subject)", text)
    return text


def _scores(source: Mapping[str, Any]) -> Scores:
    return Scores(source["final"], source.get("sites", {}), source.get("unseen_sites", {}))


def _problems(events: Sequence[Event]) -> list[Problem]:
    """Failures in the order of events. A site whose failure is known is not named as missing a second time."""
    failed = {(e["site"], e["round"], e["action"]) for e in events if e["event"] == "site_failed"}
    problems = []
    for event in events:
        match event:
            case {"event": "site_failed", "site": site, "round": round, "action": action, "reason": reason}:
                problems.append(Problem(site, round, f"{action} failed: {reason}"))
            case {"event": "site_missing", "site": site, "round": round, "action": action}:
                if (site, round, action) not in failed:
                    problems.append(Problem(site, round, event.get("reason", f"no answer to {action}")))
            case {"event": "update_refused", "site": site, "round": round, "reason": reason}:
                problems.append(Problem(site, round, f"update refused: {reason}"))
            case {"event": "update_clipped", "site": site, "round": round, "reason": reason}:
                problems.append(Problem(site, round, f"update cut down: {reason}"))
            case {"event": "site_quarantined", "site": site, "round": round}:
                problems.append(Problem(site, round, "in quarantine from here on: three replies were refused"))
            case {"event": "site_sat_out", "site": site, "round": round, "action": action, "reason": reason}:
                problems.append(Problem(site, round, f"sits out of {action} from here on: {reason}"))
            case {"event": "rolled_back", "round": round, "to": best, "sites": sites}:
                worse = f"the model after this round was worse here: back to the one after round {best}"
                problems += [Problem(site, round, worse) for site in sites]
            case {"event": "paused", "round": round, "reason": reason}:
                problems.append(Problem("–", round, f"the run paused: {reason}"))
            case {"event": "resumed", "round": round}:
                problems.append(Problem("–", round, "the run was interrupted, and went on after this round"))
    return list(dict.fromkeys(problems))


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty where there is no such file yet."""
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); delete it and continue the run with --resume") from None
    return content
