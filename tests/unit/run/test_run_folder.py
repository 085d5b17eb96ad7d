import json
from pathlib import Path

import pytest

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.errors import RunError
from agi_core.run import progress, run_folder
from agi_core.run.run_folder import EventLog


@pytest.fixture
def config() -> RunConfig:
    return load_config(None, overrides={"rounds": 7, "data.dir": "scans"}, assignments=["model.widths=[8,16]"])


def names(run_dir: Path) -> list[str]:
    return [event["event"] for event in run_folder.read_events(run_dir)]


def test_a_new_run_holds_its_configuration(tmp_path: Path, config: RunConfig) -> None:
    run_folder.create(tmp_path / "a" / "run", config)
    assert run_folder.open_existing(tmp_path / "a" / "run") == config
    environment = json.loads((tmp_path / "a" / "run" / "environment.json").read_text())
    assert environment["threads"] == 1
    assert set(environment["packages"]) >= {"torch", "flwr", "monai", "agi-fed"}


def test_an_empty_folder_will_do_and_a_full_one_will_not(tmp_path: Path, config: RunConfig) -> None:
    (tmp_path / "run").mkdir()
    run_folder.create(tmp_path / "run", config)
    with pytest.raises(RunError, match="is not empty"):
        run_folder.create(tmp_path / "run", config)


def test_check_new_makes_nothing(tmp_path: Path) -> None:
    run_folder.check_new(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="choose another --out"):
            run_folder.check_new(path)


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.yaml is missing"):
        run_folder.open_existing(tmp_path)
    with pytest.raises(RunError, match=r"events\.jsonl does not exist"):
        run_folder.read_events(tmp_path)


def test_events_are_read_back_and_heard(tmp_path: Path) -> None:
    heard: list[progress.Step | progress.Event] = []
    with progress.listening(heard.append):
        EventLog(tmp_path, elapsed_s=100.0).append("round_started", round=3)
    (event,) = run_folder.read_events(tmp_path)
    assert heard == [event]
    assert {name: event[name] for name in ("event", "round")} == {"event": "round_started", "round": 3}
    assert 100 <= event["t_s"] < 110


def test_events_of_an_interrupted_round_are_cut_back(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append("first")
    size_bytes = log.size_bytes
    log.append("second")
    log.append("third")
    EventLog(tmp_path).cut_back(size_bytes)
    assert names(tmp_path) == ["first"]
    log.append("fourth")
    assert names(tmp_path) == ["first", "fourth"]
    log.cut_back(10**6)  # nothing to cut
    assert names(tmp_path) == ["first", "fourth"]


@pytest.mark.parametrize("kept_bytes", [1, 10, 25])
def test_a_half_written_line_is_ignored(tmp_path: Path, kept_bytes: int) -> None:
    log = EventLog(tmp_path)
    log.append("first")
    whole = log.size_bytes
    log.append("second", text="cut short by a crash")
    with log.path.open("r+b") as file:
        file.truncate(whole + kept_bytes)
    assert names(tmp_path) == ["first"]


def test_figures_are_numbers_or_absent(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_folder.write_summary(tmp_path, {"final": {"psnr_db": float("nan")}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        EventLog(tmp_path).append("validated", psnr_db=float("inf"))
    assert not list(tmp_path.iterdir())
