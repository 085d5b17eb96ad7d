import contextlib
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import save

from agi_core.config.load import load_config
from agi_core.config.schema import DEPLOYMENT, RunConfig
from agi_core.errors import ConfigError, RunError
from agi_core.run import run_folder
from agi_core.run.checkpoint import WEIGHTS, save_checkpoint
from agi_core.run.event_log import EventLog
from agi_core.run.events import RoundStarted, RunPaused
from agi_core.run.initial_weights import initial_weights
from server import flower_cli, run_state, runs
from server.__main__ import main
from server.coordinator import CoordinatorDir
from server.registry import Entry
from tests.support.flwr_program import Flwr, stand_in

REGISTERED = {
    "A": Entry("key A", "SHA256:A", subjects=40, node_id=1),
    "B": Entry("key B", "SHA256:B", subjects=20, node_id=2),
    "unsized": Entry("key U", "SHA256:U", node_id=3),
}
TWO = "federation.sites=[A,B]"


def settings(*assignments: str) -> RunConfig:
    return load_config(None, overrides={}, assignments=["model.widths=[8,16]", *assignments])


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorDir:
    """With the registered sites, but never started."""
    coordinator = CoordinatorDir(tmp_path / "coordinator")
    coordinator.runs_dir.mkdir(parents=True)
    coordinator.sites_path.write_text(json.dumps({name: vars(entry) for name, entry in REGISTERED.items()}))
    return coordinator


@pytest.fixture
def run_dir(coordinator: CoordinatorDir) -> Path:
    """A run of A and B that was submitted and never started."""
    run_dir = coordinator.runs_dir / "first"
    run_folder.create(run_dir, runs.resolved(settings(TWO), REGISTERED))
    return run_dir


@pytest.fixture
def flwr(coordinator: CoordinatorDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flwr:
    """What stands for a coordinator that is up."""
    flwr = stand_in(coordinator, tmp_path / "bin", monkeypatch)
    flwr.answers("run", {"run-id": 7})
    flwr.answers("stop", {})
    flwr.answers("supernode", {"nodes": [{"node-id": node, "status": "registered"} for node in (1, 2, 3)]})
    return flwr


# WHAT A RUN RECORDS


def test_all_registered_sites_train_but_the_unseen_ones() -> None:
    registered = {site: REGISTERED[site] for site in ("B", "A")}
    config = runs.resolved(settings(), registered)
    assert (config.federation.sites, config.federation.subjects) == (("A", "B"), {"A": 40, "B": 20})
    assert config.federation.keys == {"A": "key A", "B": "key B"}
    assert config.engine == DEPLOYMENT
    config = runs.resolved(settings("federation.unseen_sites=[B]"), registered)
    assert (config.federation.sites, config.federation.unseen_sites) == (("A",), ("B",))


def test_initial_weights_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "start.safetensors").write_bytes(save(initial_weights(settings())))
    monkeypatch.chdir(tmp_path)
    config = runs.resolved(settings(TWO, "initial_weights=start.safetensors"), REGISTERED)
    assert config.initial_weights == str(tmp_path / "start.safetensors")


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["data.dir=/scans"], "data: not a setting of a deployed run"),
        (["device=cpu", "threads=3"], "device, threads: not a setting of a deployed run"),
        (["initial_weights=/nowhere"], "initial_weights=/nowhere cannot be read"),
        (["initial_weights=public"], "is for simulations; make a file"),
        ([TWO, "federation.offers={A: [T1,T2]}", "scenario=T1,T2:PD"], "federation.offers belongs to a vocabulary"),
        ([TWO, "scenario=T1,T2:any"], r"A, B: nobody has said which modalities it offers; .*'{A: \[T1, T2\], ...}'"),
        ([TWO, "scenario=T1,T2:any", "initial_weights=/nowhere"], "a file fits one number of sources"),
        (["federation.sites=[A,nobody]"], r"not registered: nobody; registered: A, B, unsized; .* --name NAME KEY.pub"),
        (["federation.unseen_sites=[nobody]"], "not registered: nobody"),
        (["federation.unseen_sites=[A,B,unsized]"], "no site is registered; add one with"),
        (["federation.sites=[A]", "federation.unseen_sites=[A]"], "a site stands twice"),
        (["federation.sites=[A,A]"], "a site stands twice"),
        (["federation.sites=[A]", "federation.unseen_sites=[unsized]"], "unsized: registered without"),
        ([], "unsized: registered without a number of subjects, .* --subjects N"),
        ([TWO, "federation.quorum=3"], "federation.quorum=3 is more than the 2 training sites"),
        ([TWO, "federation.aggregation=krum"], "krum needs 5 replies"),
    ],
)
def test_what_no_run_may_have(assignments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        runs.resolved(settings(*assignments), REGISTERED)


def test_a_vocabulary_is_planned_by_what_sites_are_registered_to_offer() -> None:
    registered = {site: replace(REGISTERED[site], modalities=["T2", "T1", "FLAIR"]) for site in ("A", "B")}
    config = runs.resolved(settings("scenario=T1,T2:any"), registered)
    assert config.federation.offers == {"A": ["T2", "T1"], "B": ["T2", "T1"]}
    assert config.engine == DEPLOYMENT
    with pytest.raises(ConfigError, match="B offers T1; a site needs two"):
        runs.resolved(settings("scenario=T1,T2:any", "federation.offers={B: [T1]}"), registered)


def test_nobody_is_registered() -> None:
    with pytest.raises(ConfigError, match="no site is registered; add one with: python -m server register"):
        runs.resolved(settings(), {})


# SUBMIT


def test_a_submitted_run_is_recorded_and_started(coordinator: CoordinatorDir, flwr: Flwr) -> None:
    run_dir = runs.submit(coordinator, settings(TWO), name="first")
    assert run_dir == coordinator.runs_dir / "first"
    assert run_folder.open_existing(run_dir) == runs.resolved(settings(TWO), REGISTERED)
    assert (run_dir / runs.FLOWER_RUN).read_text() == "7"
    assert runs.newest(coordinator) == run_dir


def test_a_run_without_a_name_gets_the_date(coordinator: CoordinatorDir, flwr: Flwr) -> None:
    assert runs.submit(coordinator, settings(TWO), name=None).name.startswith("20")


@pytest.mark.parametrize("chosen", ["", "federation.sites=[A,B]", "federation.unseen_sites=[B]"])
def test_a_site_that_flower_does_not_know_is_not_waited_for(
    coordinator: CoordinatorDir, flwr: Flwr, chosen: str
) -> None:
    entries = {"A": REGISTERED["A"], "B": replace(REGISTERED["B"], node_id=None)}
    coordinator.sites_path.write_text(json.dumps({name: vars(entry) for name, entry in entries.items()}))
    with pytest.raises(ConfigError, match=r"B: Flower does not know its key; .* register --name B KEY.pub"):
        runs.submit(coordinator, settings(*[chosen] * bool(chosen)), name="first")
    assert not list(coordinator.runs_dir.iterdir())
    assert runs.submit(coordinator, settings("federation.sites=[A]"), name="first").is_dir()


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "/tmp/elsewhere"])
def test_a_name_that_is_no_plain_folder(coordinator: CoordinatorDir, name: str) -> None:
    with pytest.raises(ConfigError, match="must be a plain folder name"):
        runs.submit(coordinator, settings(TWO), name=name)


def test_a_name_is_used_once(coordinator: CoordinatorDir, run_dir: Path) -> None:
    with pytest.raises(RunError, match="there is a run first already"):
        runs.submit(coordinator, settings(TWO), name="first")


def test_without_a_coordinator_nothing_is_left_behind(coordinator: CoordinatorDir) -> None:
    with pytest.raises(RunError, match="python -m server up"):
        runs.submit(coordinator, settings(TWO), name="first")
    assert not list(coordinator.runs_dir.iterdir())


@pytest.mark.parametrize("holds", [True, False])
def test_a_run_that_begins_before_the_answer_fails_keeps_its_folder(
    coordinator: CoordinatorDir, flwr: Flwr, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    """It works, or has ended by now."""
    with contextlib.ExitStack() as process:

        def run(coordinator: CoordinatorDir, run_dir: Path) -> str:
            if holds:
                process.enter_context(run_state.holding(run_dir))
            else:
                runs.note_process(run_dir, "7")
            raise RunError("no answer for 180 s")

        monkeypatch.setattr(flower_cli, "run", run)
        with pytest.raises(RunError, match="no answer for 180 s; run first has begun all the same; watch it with"):
            runs.submit(coordinator, settings(TWO), name="first")
        assert run_folder.open_existing(coordinator.runs_dir / "first")


@pytest.mark.parametrize(
    ("chosen", "line"),
    [
        ([], "reference: measured at the sites before the first round; reference=... names one\n"),
        (
            ["privacy.epsilon=8"],
            "reference: T2, the last source, because a private run measures nothing; reference=... names another\n",
        ),
        (["reference=T1"], ""),
    ],
)
def test_submit_says_how_the_reference_is_chosen(
    coordinator: CoordinatorDir, flwr: Flwr, capsys: pytest.CaptureFixture[str], chosen: list[str], line: str
) -> None:
    arguments = ["--dir", str(coordinator.path), "--name", "first", TWO, "scenario=T1,T2:PD", *chosen]
    assert main(["submit", *arguments]) == 0
    assert capsys.readouterr().out == (
        f"run first started: {coordinator.runs_dir / 'first'}\n{line}watch it with: python -m server status --watch\n"
    )


def test_submit_shows_the_plan_of_a_vocabulary(
    coordinator: CoordinatorDir, flwr: Flwr, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["scenario=T1,T2,PD:any", "federation.offers={A: [T1,T2], B: [T1,PD]}", "federation.aggregation=median"]
    arguments = ["submit", "--dir", str(coordinator.path), "--name", "first", "federation.sites=[A,B,unsized]"]
    assert main([*arguments, *asked]) == 2
    assert not list(coordinator.runs_dir.iterdir())
    entries = {**REGISTERED, "unsized": replace(REGISTERED["unsized"], subjects=3, modalities=["T1", "T2"])}
    coordinator.sites_path.write_text(json.dumps({name: vars(entry) for name, entry in entries.items()}))
    capsys.readouterr()
    assert main([*arguments, *asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "T2:T1: 20 steps a round at A, unsized" in lines
    assert "T2,PD:T1: a blend of T2:T1 and PD:T1" in lines
    assert "T2:PD: nobody can make it" in lines
    few = "too few sites for median, so the mean, which withstands nobody: T2:T1, PD:T1, T1:T2, T1:PD"
    assert few in lines
    with pytest.raises(ConfigError, match="first is a run over a vocabulary, whose cells keep their sites"):
        runs.add_site(coordinator, "first", site="B")


def test_submit_says_with_what_each_cell_of_a_private_vocabulary_is_planned(
    coordinator: CoordinatorDir, flwr: Flwr, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trains T1 to T2 and back, B T1 to PD and back."""
    asked = ["scenario=T1,T2,PD:any", "federation.offers={A: [T1,T2], B: [T1,PD]}", "privacy.epsilon=8", "rounds=1"]
    assert main(["submit", "--dir", str(coordinator.path), "--name", "first", TWO, *asked]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("planned with epsilon")]
    said, told = line.split(": ", 1)
    assert said == "planned with epsilon, of the 8 of each site for all its cells"
    cells = dict(one.split() for one in told.split(", "))
    assert [*cells] == ["T2:T1", "PD:T1", "T1:T2", "T1:PD"]
    assert all(5 < float(epsilon) < 5.7 for epsilon in cells.values())


def test_a_second_study_begins_where_the_first_ended(coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr) -> None:
    arguments = ["submit", "--dir", str(coordinator.path), "--name", "second", "--from-run", "first", TWO]
    small = ["model.widths=[8,16]"]
    assert main([*arguments, *small]) == 2  # no round of it is finished
    weights = {f"{WEIGHTS}{name}": array for name, array in initial_weights(settings("seed=5")).items()}
    save_checkpoint(run_dir, round=2, arrays=weights, state={})
    assert main([*arguments, *small, "initial_weights=random"]) == 2  # which of the two?
    assert main([*arguments, *small]) == 0
    start = run_folder.open_existing(coordinator.runs_dir / "second").initial_weights
    assert start == str(run_dir / "checkpoints" / "state-00002.safetensors")


# RESUME


def test_a_run_that_has_ended_is_started_again_as_the_registry_is_now(
    coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr
) -> None:
    (run_dir / runs.FLOWER_RUN).write_text("6")
    flwr.knows("finished:failed")
    entries = REGISTERED | {"A": replace(REGISTERED["A"], subjects=41)}
    coordinator.sites_path.write_text(json.dumps({name: vars(entry) for name, entry in entries.items()}))
    assert runs.resume(coordinator, "first", quorum=1) == run_dir
    federation = run_folder.open_existing(run_dir).federation
    assert (federation.quorum, federation.subjects) == (1, {"A": 41, "B": 20})
    assert (run_dir / runs.FLOWER_RUN).read_text() == "7"
    assert flwr.asked("stop") == []


def test_a_site_that_has_left_meanwhile_keeps_its_size_and_will_be_missing(
    coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr
) -> None:
    coordinator.sites_path.write_text(json.dumps({"A": vars(REGISTERED["A"])}))
    runs.resume(coordinator, "first", quorum=1)
    assert run_folder.open_existing(run_dir).federation.subjects == {"A": 40, "B": 20}


def test_a_process_that_only_flower_believes_in_is_stopped_first(
    coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr
) -> None:
    runs.note_process(run_dir, "6")
    flwr.knows("running")
    runs.resume(coordinator, "first", quorum=None)
    assert flwr.asked("stop") == ["6"]
    assert run_folder.open_existing(run_dir).federation.quorum is None


def test_a_run_that_the_database_has_lost_is_begun_anew(
    coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / runs.FLOWER_RUN).write_text("6")
    flwr.fails("list", "[code: 16] Run ID not found.")
    main(["status", "--dir", str(coordinator.path)])
    shown = capsys.readouterr().out
    assert "state.db has lost this run" in shown
    assert "does not answer" not in shown
    runs.resume(coordinator, "first", quorum=None)
    assert (run_dir / runs.FLOWER_RUN).read_text() == "7"


def test_a_run_that_cannot_be_resumed(coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr) -> None:
    def refused(match: str, *, quorum: int | None = None, error: type[Exception] = RunError) -> None:
        with pytest.raises(error, match=match):
            runs.resume(coordinator, "first", quorum=quorum)

    refused("federation.quorum=3 is more than the 2 training sites", quorum=3, error=ConfigError)
    runs.note_process(run_dir, "5")
    (run_dir / runs.FLOWER_RUN).write_text("6")
    for status in ("pending", "starting", "running"):  # it does not hold the run as soon as it runs
        flwr.knows(status)
        refused("first is about to start")
    with run_state.holding(run_dir):
        refused("first is running; watch it with")
    (run_dir / "summary.json").write_text("{}")
    refused(r"first is finished; its report is .*report\.html")
    assert flwr.asked("run") == []


def test_two_who_resume_at_once_start_one_process(
    coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def run(coordinator: CoordinatorDir, run_dir: Path) -> str:
        started.append(str(7 + len(started)))
        time.sleep(0.5)
        flwr.knows("pending")
        return started[-1]

    def resume(who: int) -> str:
        try:
            return runs.resume(coordinator, "first", quorum=None).name
        except RunError as error:
            return str(error)

    monkeypatch.setattr(flower_cli, "run", run)
    with ThreadPoolExecutor() as pool:
        told = sorted(pool.map(resume, range(2)))
    assert told == ["first", "first is about to start; watch it with: python -m server status"]
    assert started == ["7"]


def test_a_process_that_has_noted_itself_meanwhile_keeps_the_run(
    coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(coordinator: CoordinatorDir, run_dir: Path) -> str:
        runs.note_process(run_dir, "7")  # of somebody who was killed before the note
        return "8"

    monkeypatch.setattr(flower_cli, "run", run)
    runs.resume(coordinator, "first", quorum=None)
    assert (run_dir / runs.FLOWER_RUN).read_text() == "7"


def test_a_process_notes_itself_once_and_the_order_of_runs_stays(run_dir: Path) -> None:
    runs.note_process(run_dir, "7")
    os.utime(run_dir / runs.FLOWER_RUN, (2, 2))
    runs.note_process(run_dir, "7")
    assert (run_dir / runs.FLOWER_RUN).stat().st_mtime == 2


# ADD A SITE


def test_a_fourth_hospital_joins_a_run_that_stands_still(
    coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = REGISTERED | {"Late": Entry("key L", "SHA256:L", subjects=9, node_id=3)}
    coordinator.sites_path.write_text(json.dumps({name: vars(entry) for name, entry in entries.items()}))
    assert main(["add-site", "--dir", str(coordinator.path), "first", "Late"]) == 0
    federation = run_folder.open_existing(run_dir).federation
    assert (federation.sites, federation.subjects) == (("A", "B", "Late"), {"A": 40, "B": 20, "Late": 9})
    assert capsys.readouterr().out.endswith("next: python -m server resume first\n")


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("A", "A takes part in first already"),
        ("nobody", "not registered: nobody"),
        ("unsized", "unsized: registered without a number of subjects"),
    ],
)
def test_a_site_that_cannot_join(
    coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr, site: str, message: str
) -> None:
    before = (run_dir / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=message):
        runs.add_site(coordinator, "first", site=site)
    assert (run_dir / "config.yaml").read_bytes() == before


def test_nobody_joins_a_run_that_is_going_on_or_finished(coordinator: CoordinatorDir, run_dir: Path) -> None:
    with run_state.holding(run_dir), pytest.raises(RunError, match="first is running; first stop it"):
        runs.add_site(coordinator, "first", site="unsized")
    save_checkpoint(run_dir, round=run_folder.open_existing(run_dir).rounds, arrays={}, state={})
    with pytest.raises(ConfigError, match="the last round of first is over, so unsized would not train"):
        runs.add_site(coordinator, "first", site="unsized")
    (run_dir / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="begin another study with: python -m server submit --from-run first"):
        runs.add_site(coordinator, "first", site="unsized")


def test_a_cell_is_begun_and_ended_with_its_run(coordinator: CoordinatorDir) -> None:
    cell = "any/cells/T2-to-T1"
    run_folder.create(coordinator.runs_dir / cell, settings("scenario=T2:T1"))
    for begin_or_end in (
        lambda: runs.add_site(coordinator, cell, site="unsized"),
        lambda: runs.resume(coordinator, cell, quorum=None),
        lambda: runs.stop(coordinator, cell),
    ):
        with pytest.raises(RunError, match="any/cells/T2-to-T1 is a cell of the run any; name the whole run"):
            begin_or_end()
    assert runs.find(coordinator, cell).is_dir()  # it may be exported


# STOP


def test_a_stopped_run_gets_its_report_so_far(coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr) -> None:
    (run_dir / runs.FLOWER_RUN).write_text("6")
    flwr.knows("running")
    assert runs.stop(coordinator, None) == run_dir
    assert not (run_dir / "report.html").exists()  # nothing has happened yet
    EventLog(run_dir).append(RoundStarted(round=1))
    assert runs.stop(coordinator, "first") == run_dir
    assert (run_dir / "report.html").is_file()
    assert flwr.asked("stop") == ["6", "6"]


def test_a_stopped_run_over_a_vocabulary_gets_the_report_of_its_cell(coordinator: CoordinatorDir, flwr: Flwr) -> None:
    registered = {"A": replace(REGISTERED["A"], modalities=["T1", "T2"])}
    run_dir = coordinator.runs_dir / "any"
    run_folder.create(run_dir, runs.resolved(settings("scenario=T1,T2:any"), registered))
    cell_dir = run_dir / "cells" / "T2-to-T1"
    run_folder.create(cell_dir, settings("scenario=T2:T1"))
    for folder in (run_dir, cell_dir):
        EventLog(folder).append(RoundStarted(round=1))
    (run_dir / runs.FLOWER_RUN).write_text("6")
    flwr.knows("running")
    runs.stop(coordinator, "any")
    assert [path.is_file() for path in (cell_dir / "report.html", run_dir / "report.html")] == [True, False]


def test_what_goes_on_by_itself_was_neither_paused_nor_stopped_nor_finished(
    coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr
) -> None:
    assert runs.interrupted(coordinator) == []  # it was never started
    runs.resume(coordinator, "first", quorum=None)
    assert runs.interrupted(coordinator) == [run_dir]
    with run_state.holding(run_dir):
        assert runs.interrupted(coordinator) == []
    flwr.knows("running")
    runs.stop(coordinator, "first")
    assert runs.interrupted(coordinator) == []
    flwr.knows("finished:stopped")
    runs.resume(coordinator, "first", quorum=None)
    assert runs.interrupted(coordinator) == [run_dir]
    EventLog(run_dir).append(RunPaused(round=1, reason="too few"))
    assert runs.interrupted(coordinator) == []
    (run_dir / "events.jsonl").write_text("damaged\n")
    assert runs.interrupted(coordinator) == []


def test_a_run_that_a_failed_stop_left_going_is_not_called_stopped(
    coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr
) -> None:
    (run_dir / runs.FLOWER_RUN).write_text("6")
    flwr.knows("running")
    flwr.fails("stop", "the database is locked")
    with pytest.raises(RunError, match="the database is locked"):
        runs.stop(coordinator, "first")
    assert runs.interrupted(coordinator) == [run_dir]  # once its process is gone


def test_a_run_that_cannot_be_stopped(coordinator: CoordinatorDir, run_dir: Path, flwr: Flwr) -> None:
    with pytest.raises(RunError, match="there is no run yet"):
        runs.stop(coordinator, None)
    with pytest.raises(RunError, match="first is not running"):  # it was never started
        runs.stop(coordinator, "first")
    (run_dir / runs.FLOWER_RUN).write_text("6")
    flwr.knows("finished:completed")
    with pytest.raises(RunError, match="first is not running"):
        runs.stop(coordinator, None)
    assert flwr.asked("stop") == []


# FIND


@pytest.mark.parametrize("use", [runs.find, runs.stop, lambda where, name: runs.resume(where, name, quorum=None)])
def test_a_run_that_is_not_there(
    coordinator: CoordinatorDir, run_dir: Path, use: Callable[[CoordinatorDir, str], Path]
) -> None:
    with pytest.raises(RunError, match=r"there is no run second in .*; runs: first"):
        use(coordinator, "second")


def test_the_newest_is_the_one_that_was_started_or_resumed_last(coordinator: CoordinatorDir, run_dir: Path) -> None:
    assert runs.newest(coordinator) is None
    for name, started_s in (("a", 2), ("b", 3), ("c", 1)):
        folder = coordinator.runs_dir / name
        folder.mkdir()
        (folder / runs.FLOWER_RUN).write_text("1")
        os.utime(folder / runs.FLOWER_RUN, (started_s, started_s))
    assert runs.newest(coordinator) == coordinator.runs_dir / "b"


def test_a_folder_that_is_removed_meanwhile_hides_no_other_run(
    coordinator: CoordinatorDir, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_dir / runs.FLOWER_RUN).write_text("1")
    found = [coordinator.runs_dir / name / runs.FLOWER_RUN for name in ("removed", "first")]
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: found)
    assert runs.by_start(coordinator) == [run_dir]


def test_a_run_that_was_never_started_counts_as_finished(coordinator: CoordinatorDir, run_dir: Path) -> None:
    assert runs.flower_run(coordinator, run_dir).is_finished
