"""A deployed run over a vocabulary: its cells one after another, each a run in a folder of its own, then its blends and
its summary (docs/any_to_any.md)."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.serverapp import Grid

from agi_core.cells import folder_of, parse_vocabulary
from agi_core.config.load import task_json
from agi_core.errors import AgiError, NoneHeldError, RunError
from agi_core.report.study_report import build_study_report
from agi_core.run import events, progress, run_folder
from agi_core.run.event_log import EventLog, events_of
from agi_core.run.study_summary import StudySummary, cell_results, write_study_summary
from agi_core.run.summary import FILE_NAME
from agi_core.scenario import Scenario, parse_scenario
from agi_core.study import WholeStudy
from server import run_state
from server.blending import Blending
from server.follow import follow
from server.rounds import Rounds
from server.study_plan import cell_config, not_held, plan_of
from server.whole_run import carry_out


class StudyRounds:
    """What is left of a run over a vocabulary. A finished cell stays as it is; a process that is killed at any moment
    loses the round of the cell that it was in."""

    def __init__(self, grid: Grid, run_dir: Path, *, strikes_path: Path, key: Ed25519PrivateKey) -> None:
        """`strikes_path`: see `server.strikes`. `key` signs the requests."""
        self._run_dir, self._config = run_dir, run_folder.open_existing(run_dir)
        self._plan, self._events = plan_of(self._config), EventLog.going_on(run_dir)
        self._rounds = partial(Rounds, grid, strikes_path=strikes_path, key=key)
        self._blending = partial(Blending, grid, run_dir, strikes_path=strikes_path, key=key)

    def run(self) -> None:
        """All cells that are not finished, then the blends, then summary and report. This process holds the run.

        Raises:
            RunError: a cell cannot go on, which the message names. What was finished is saved.
        """
        study = self._begun()
        for cell in self._plan.trained:
            with self._pausing(cell):
                if str(cell) not in not_held(self._run_dir):
                    self._train(cell, study)
        with self._pausing(None), progress.listening(partial(follow, self._run_dir)):
            left_out = not_held(self._run_dir)
            for cell in map(parse_scenario, left_out):
                shutil.rmtree(folder_of(self._run_dir, cell), ignore_errors=True)
            if len(left_out) == len(self._plan.trained):
                raise RunError("no site has a subject with two of the modalities that it offers; begin another run")
            if self._plan.blends or left_out:
                blending = self._blending(study=study)
                blending.run()
                blending.test()
            offers, cells = self._config.federation.offers, cell_results(self._run_dir)
            summary = StudySummary(scenario=self._config.scenario, cells=cells, offers=offers)
            write_study_summary(self._run_dir, summary)
        build_study_report(self._run_dir)

    def _begun(self) -> WholeStudy:
        """As sites know the whole run, for as long as it lives."""
        if begun := events_of(self._run_dir, events.RunStarted) if self._events.size_bytes else []:
            self._events.append(events.RunResumed(round=0))
            run_id = begun[0].run_id
        else:
            run_id, whole = run_state.new_run_id(self._run_dir), self._config.federation
            self._events.append(events.RunStarted(run_id=run_id, sites=whole.sites, unseen_sites=whole.unseen_sites))
        return WholeStudy(run_id, task_json(self._config.task))

    def _train(self, cell: Scenario, study: WholeStudy) -> None:
        cell_dir, config = folder_of(self._run_dir, cell), cell_config(self._config, cell, self._plan)
        if (cell_dir / FILE_NAME).is_file():
            return
        if (cell_dir / "config.yaml").is_file():  # what the sites' scans have chosen stays
            begun = run_folder.open_existing(cell_dir)
            run_folder.write_config(cell_dir, dataclasses.replace(begun, federation=config.federation))
        else:
            shutil.rmtree(cell_dir, ignore_errors=True)  # of a process that was killed while it made the folder
            run_folder.create(cell_dir, config)
        with run_state.holding(cell_dir):
            try:
                carry_out(cell_dir, partial(self._rounds, cell_dir, study=study))
            except RunError:
                if not self._is_held_nowhere(cell):
                    raise
                self._note(events.CellNotHeld(cell=str(cell), sites=self._plan.trained[cell]))

    def _is_held_nowhere(self, cell: Scenario) -> bool:
        """Whether each of its sites has said that none of its subjects has all modalities of the cell."""
        cell_dir = folder_of(self._run_dir, cell)
        if not (cell_dir / "events.jsonl").is_file():
            return False
        said = {event.site: event.reason for event in events_of(cell_dir, events.SiteSatOut)}
        begun = events_of(cell_dir, events.RoundFinished)
        return not begun and all(said.get(site) == NoneHeldError.public for site in self._plan.trained[cell])

    def _note(self, event: events.Event) -> None:
        with progress.listening(partial(follow, self._run_dir)):
            self._events.append(event)

    def _way_out(self, cell: Scenario) -> str:
        """What to type where the only site of a cell was not there, and may never be again."""
        (site, *more), cell_dir = self._plan.trained[cell], folder_of(self._run_dir, cell)
        others = [other for other in self._config.federation.sites if other != site]
        if more or not others or not (cell_dir / "events.jsonl").is_file():
            return ""
        if not any(event.site == site for event in events_of(cell_dir, events.SiteMissing)):
            return ""
        offered = {name for other in others for name in self._plan.offers[other]}
        names = ",".join(name for name in parse_vocabulary(self._config.scenario).modalities if name in offered)
        return (
            f"; {site} alone trains this cell; if it has left for good, begin a run without it: python -m server submit"
            f" scenario={names}:any federation.sites='[{','.join(others)}]'"
        )

    @contextlib.contextmanager
    def _pausing(self, cell: Scenario | None) -> Iterator[None]:
        """Note for the whole run why the cell, or where it is None the blends, cannot go on."""
        try:
            yield
        except (AgiError, httpx.HTTPError) as error:  # of the SuperLink, while it is asked for a blend
            what, way_out = (f"cell {cell}", self._way_out(cell)) if cell else ("blends", "")
            reason = f"{what}: {' '.join(str(error).split())}{way_out}"
            with contextlib.suppress(AgiError):  # the disk may be full
                self._events.append(events.RunPaused(round=0, reason=reason))
            raise RunError(reason) from None
