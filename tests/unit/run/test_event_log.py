import datetime
from pathlib import Path

import pytest

from agi_core.errors import RunError
from agi_core.run import progress
from agi_core.run.event_log import EventLog, events_of, read_events, read_times
from agi_core.run.events import BaselineFinished, RoundStarted, Warned


def texts(run_dir: Path) -> list[str]:
    return [event.text for event in events_of(run_dir, Warned)]


def test_no_log_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"events\.jsonl does not exist"):
        read_events(tmp_path)


def test_events_are_read_back_and_heard(tmp_path: Path) -> None:
    heard: list[progress.News] = []
    with progress.listening(heard.append):
        EventLog(tmp_path, elapsed_s=100.0).append(RoundStarted(round=3))
    ((t_s, event),) = read_events(tmp_path)
    assert heard == [event] == [RoundStarted(round=3)]
    assert 100 <= t_s < 110


def test_events_have_a_date_and_those_of_an_old_release_none(tmp_path: Path) -> None:
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    EventLog(tmp_path).append(RoundStarted(round=1))
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"t_s": 1.5, "event": "round_started", "round": 2}\n')
    told, untold = read_times(tmp_path)
    assert told is not None
    assert before <= told <= datetime.datetime.now(datetime.UTC)
    assert untold is None


def test_events_of_an_interrupted_round_are_cut_back(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(Warned(text="first"))
    size_bytes = log.size_bytes
    log.append(Warned(text="second"))
    log.append(Warned(text="third"))
    EventLog(tmp_path).cut_back(size_bytes)
    assert texts(tmp_path) == ["first"]
    log.append(Warned(text="fourth"))
    assert texts(tmp_path) == ["first", "fourth"]
    log.cut_back(10**6)  # nothing to cut
    assert texts(tmp_path) == ["first", "fourth"]


@pytest.mark.parametrize("kept_bytes", [1, 10, 25])
def test_a_half_written_line_is_ignored(tmp_path: Path, kept_bytes: int) -> None:
    log = EventLog(tmp_path)
    log.append(Warned(text="first"))
    whole = log.size_bytes
    log.append(Warned(text="cut short by a crash"))
    with log.path.open("r+b") as file:
        file.truncate(whole + kept_bytes)
    assert texts(tmp_path) == ["first"]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"t_s": "\xff"}', '{"t_s": 1}', '{"t_s": 1, "event": "paused", "round": 1}']
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    EventLog(tmp_path).append(RoundStarted(round=1))
    with (tmp_path / "events.jsonl").open("a", encoding="latin-1") as file:
        file.write(f"{line}\n")
    with pytest.raises(RunError, match=r"events\.jsonl is damaged in line 2"):
        read_events(tmp_path)


def test_a_run_that_goes_on_keeps_what_it_noted_and_counts_from_there(tmp_path: Path) -> None:
    EventLog.going_on(tmp_path).append(RoundStarted(round=1))
    EventLog(tmp_path, elapsed_s=50.0).append(RoundStarted(round=2))
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"cut sho')
    EventLog.going_on(tmp_path).append(RoundStarted(round=3))
    assert [event.round for event in events_of(tmp_path, RoundStarted)] == [1, 2, 3]
    assert read_events(tmp_path)[-1].t_s >= 50


def test_figures_are_numbers_or_absent(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        EventLog(tmp_path).append(BaselineFinished(name="local_only", final={"psnr_db": float("inf")}))
    assert not list(tmp_path.iterdir())
