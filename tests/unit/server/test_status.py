import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agi_core.config.load import load_config
from agi_core.run import run_folder
from agi_core.run.event_log import EventLog
from agi_core.run.events import (
    BlendTested,
    Exchanging,
    LastLayersShared,
    ModelTested,
    ModelValidated,
    RangeLearnt,
    RoundFinished,
    RoundStarted,
    RunPaused,
    SiteMissing,
    SiteSatOut,
    UpdateRefused,
)
from agi_core.run.scores import Scores
from server import run_state, strikes
from server.coordinator import CoordinatorDir
from server.follow import NOW, follow
from server.runs import FLOWER_RUN
from server.status import CoordinatorStatus, SiteStatus, coordinator_status, run_status
from server.status_text import status_text


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run_dir = tmp_path / "r"
    run_folder.create(run_dir, load_config(None, overrides={"federation.sites": ["A", "B", "C"]}))
    return run_dir


def test_a_run_that_has_not_begun(run_dir: Path) -> None:
    current = run_status(run_dir)
    assert (current.state, current.round, current.rounds) == ("interrupted", 0, 6)


def test_failures_of_this_round_only(run_dir: Path) -> None:
    events = EventLog(run_dir)
    for round, site in ((1, "A"), (2, "B")):
        events.append(RoundStarted(round=round))
        events.append(SiteMissing(round=round, site=site, action="train", reason="not connected"))
    events.append(UpdateRefused(round=2, site="C", reason="NaN"))
    events.append(ModelValidated(round=1, mean={"psnr_db": 21.5}, sites={}))
    current = run_status(run_dir)
    assert (current.round, current.failed, current.refused) == (2, {"B": "not connected"}, {"C": "NaN"})
    assert current.validation_psnr_db == 21.5


def test_what_goes_on_now_is_shown_while_it_goes_on(run_dir: Path) -> None:
    follow(run_dir, Exchanging(round=1, action="train", waiting_for=["A"], answered=["B"]))
    assert run_status(run_dir).waiting_for == []
    with run_state.holding(run_dir):
        current = run_status(run_dir)
    assert (current.state, current.waiting_for, current.answered) == ("running", ["A"], ["B"])


def test_who_sits_out_is_shown_until_it_answers_again(run_dir: Path) -> None:
    events = EventLog(run_dir)
    for site in ("A", "B"):
        events.append(SiteSatOut(site=site, round=1, action="train", reason="policy"))
    events.append(SiteSatOut(site="C", round=1, action="evaluate", reason="policy"))  # it trains all the same
    assert run_status(run_dir).sitting_out == {"A": "policy", "B": "policy"}
    events.append(RoundFinished(round=2, sites=["B", "C"], train_loss={}, seconds={}))
    events.append(ModelValidated(round=2, mean={}, sites={}, suppressed=["B"]))
    current = run_status(run_dir)
    assert current.sitting_out == {"A": "policy"}
    assert current.suppressed == ["B"]


def test_why_a_run_paused(run_dir: Path) -> None:
    events = EventLog(run_dir)
    events.append(RunPaused(round=1, reason="round 2: 1 of 3 sites"))
    assert (run_status(run_dir).state, run_status(run_dir).reason) == ("paused", "round 2: 1 of 3 sites")
    with run_state.holding(run_dir):  # somebody goes on with it
        assert (run_status(run_dir).state, run_status(run_dir).reason) == ("running", None)


def test_what_the_end_of_a_run_has_brought(run_dir: Path) -> None:
    events = EventLog(run_dir)
    assert run_status(run_dir).end is None
    for psnr_db in (20.0, 22.0):  # it paused after the first test
        events.append(ModelTested(scores=Scores({"psnr_db": psnr_db})))
    events.append(RangeLearnt(said="known range of 20 training subjects"))
    events.append(LastLayersShared(sites=["A"], left_out=["B"]))
    for cell in ("T1,T2:PD", "T1,PD:T2"):
        events.append(BlendTested(cell=cell, weights={}, said="21.00 dB at C"))
    said = [
        "final test: 22.00 dB",
        "known range of 20 training subjects",
        "last layers for synthesize --style: A; without B",
        "T1,T2:PD, a blend: 21.00 dB at C",
        "T1,PD:T2, a blend: 21.00 dB at C",
    ]
    assert run_status(run_dir).end == said
    (run_dir / "summary.json").touch()
    current = run_status(run_dir)
    assert current.end == [*said, f"report: {run_dir / 'report.html'}"]
    assert "\n  final test: 22.00 dB\n" in status_text(CoordinatorStatus(True, True, {}, current))


@pytest.mark.parametrize("content", ["", "[]", '{"round": 1}'])
def test_a_damaged_note_of_what_goes_on_now_is_no_fault(run_dir: Path, content: str) -> None:
    (run_dir / NOW).write_text(content)
    with run_state.holding(run_dir):
        current = run_status(run_dir)
    assert (current.state, current.action, current.waiting_for) == ("running", None, [])


def test_a_folder_that_was_never_started(tmp_path: Path) -> None:
    assert coordinator_status(CoordinatorDir(tmp_path)).to_json() == {
        "alive": False,
        "reachable": False,
        "sites": {},
        "run": None,
        "earlier": [],
        "exists": False,
    }


def test_without_the_superlink_the_folder_still_tells(tmp_path: Path) -> None:
    coordinator = CoordinatorDir(tmp_path)
    entry = {"public_key": "k", "fingerprint": "SHA256:x", "subjects": 9, "node_id": 1}
    coordinator.sites_path.write_text(json.dumps({"hospitalA": entry}))
    strikes.strike(coordinator.strikes_path, "hospitalA", run="first", round=1, reason="NaN")
    run_folder.create(coordinator.runs_dir / "first", load_config(None, overrides={}))
    (coordinator.runs_dir / "first" / FLOWER_RUN).write_text("7")
    current = coordinator_status(coordinator)
    assert current.sites == {"hospitalA": SiteStatus("unknown", None, subjects=9, strikes=1)}
    assert current.run is not None
    assert (current.run.name, current.run.state) == ("first", "interrupted")


def test_all_runs_are_told_the_newest_first(tmp_path: Path) -> None:
    coordinator = CoordinatorDir(tmp_path)
    for started_s, name in enumerate(("b", "c", "a")):
        run_folder.create(coordinator.runs_dir / name, load_config(None, overrides={}))
        path = coordinator.runs_dir / name / FLOWER_RUN
        path.write_text("7")
        os.utime(path, (started_s, started_s))
    current = coordinator_status(coordinator)
    assert current.run is not None
    assert [current.run.name, *(run.name for run in current.earlier)] == ["a", "c", "b"]
    assert current.exists


@pytest.mark.parametrize("name", ["config.yaml", "events.jsonl"])
def test_a_damaged_run_is_named_and_hides_no_other(tmp_path: Path, name: str) -> None:
    coordinator = CoordinatorDir(tmp_path)
    for run in ("whole", "broken"):
        run_folder.create(coordinator.runs_dir / run, load_config(None, overrides={}))
        (coordinator.runs_dir / run / FLOWER_RUN).write_text("7")
    (coordinator.runs_dir / "broken" / name).write_text("rounds: [\n")
    current = coordinator_status(coordinator)
    assert current.run is not None
    told = {run.name: run for run in (current.run, *current.earlier)}
    assert told["whole"].state == "interrupted"
    assert told["broken"].state == "damaged"
    assert name in str(told["broken"].reason)
    assert "run broken: damaged\n" in status_text(current)
    assert str(told["broken"].reason) in status_text(current)


def test_a_run_has_an_action_or_a_reason_only_where_there_is_one(run_dir: Path) -> None:
    run = run_status(run_dir)
    told = CoordinatorStatus(True, True, {"A": SiteStatus("online", "now", None, 0)}, run).to_json()
    assert told["sites"] == {"A": {"status": "online", "last_seen": "now", "subjects": None, "strikes": 0}}
    assert told["run"] == {
        "name": "r",
        "state": "interrupted",
        "round": 0,
        "rounds": 6,
        "validation_psnr_db": None,
        "waiting_for": [],
        "answered": [],
        "failed": {},
        "refused": {},
        "sitting_out": {},
        "suppressed": [],
    }
    changes: list[dict[str, Any]] = [{"action": "train"}, {"reason": ""}]
    for changed in changes:
        assert CoordinatorStatus(True, True, {}, replace(run, **changed)).to_json()["run"] == told["run"] | changed


def test_a_run_over_a_vocabulary_shows_its_cells_and_the_one_of_now(tmp_path: Path) -> None:
    run_dir = tmp_path / "v"
    federation = {"sites": ["A", "B"], "offers": {site: ["T1", "T2"] for site in "AB"}}
    run_folder.create(run_dir, load_config(None, overrides={"scenario": "T1,T2:any", "federation": federation}))
    assert (run_status(run_dir).state, run_status(run_dir).cells) == ("interrupted", {"T2:T1": "now", "T1:T2": "next"})
    cell_dirs = [run_dir / "cells" / name for name in ("T2-to-T1", "T1-to-T2")]
    for cell_dir in cell_dirs:
        run_folder.create(cell_dir, load_config(None, overrides={"scenario": "T2:T1"}))
    (cell_dirs[0] / "summary.json").touch()
    EventLog(cell_dirs[1]).append(RoundStarted(round=3))
    with run_state.holding(run_dir):
        current = run_status(run_dir)
    assert (current.name, current.state, current.round) == ("v", "running", 3)
    assert current.cells == {"T2:T1": "done", "T1:T2": "now"}
    EventLog(run_dir).append(RunPaused(round=0, reason="cell T1:T2: why"))
    assert (run_status(run_dir).state, run_status(run_dir).reason) == ("paused", "cell T1:T2: why")
    (cell_dirs[1] / "summary.json").touch()
    assert run_status(run_dir).cells == {"T2:T1": "done", "T1:T2": "done"}
