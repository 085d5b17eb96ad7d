import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from agi_core.run.progress import Refused, Step
from client.process.status import StatusFile, doing


def read(file: StatusFile) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(file.path.read_text())
    return status


def test_a_request_from_arrival_to_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    file = StatusFile(tmp_path / "state")
    assert read(file) == {
        "pid": os.getpid(),
        "state": "waiting",
        **dict.fromkeys(("run", "round", "phase", "step", "steps", "seconds_left")),
        "metrics": {},
        "refused": None,
    }
    file.working("training", run="r", round=3)
    assert (read(file)["state"], read(file)["run"], read(file)["round"]) == ("training", "r", 3)

    for step in range(1, 5):  # half a second each: every other one is written
        clock[0] += 0.5
        file.on_progress(Step("round 3/8", "HH", step, 10, 0.5))
    status = read(file)
    assert (status["phase"], status["step"], status["steps"]) == ("round 3/8", 4, 10)
    assert status["seconds_left"] == pytest.approx(6 * 0.5)

    file.waiting({"train_loss": 0.25})
    assert read(file)["metrics"] == {"train_loss": 0.25}
    file.working("evaluating", run="r", round=3)
    file.waiting({})  # a refused request
    assert read(file)["metrics"] == {"train_loss": 0.25}
    assert read(file)["state"] == "waiting"
    file.working("training", run="r", round=4)
    file.on_progress(Refused("rounds=900 is above 500"))
    file.waiting({})
    assert read(file)["refused"] == "rounds=900 is above 500"
    file.working("training", run="r", round=5)
    assert read(file)["refused"] is None
    file.remove()
    assert not file.path.exists()


@pytest.mark.parametrize(
    ("subjects", "trains", "words"),
    [
        ("", True, "training"),
        ("validation", False, "validating"),
        ("alone", False, "training alone"),
        ("regressions of all", False, "testing regressions"),
        ("blend T1:PD*0.5 T2:PD*0.5", False, "testing a blend"),
        ("error", False, "measuring errors"),
        ("error counts", False, "measuring errors"),
        ("known range", False, "measuring its known range"),
        ("keys", True, "making a key"),
        ("\x1b[31m", False, "evaluating"),
    ],
)
def test_a_request_in_words(subjects: str, trains: bool, words: str) -> None:
    assert doing(subjects, trains=trains) == words


def test_steps_are_written_at_most_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    file = StatusFile(tmp_path)
    written = set()
    for step in range(1, 31):
        clock[0] += 0.125
        file.on_progress(Step("test", "HH", step, 30))
        written.add(read(file)["step"])
    assert written == {None, 8, 16, 24}


def test_a_full_disk_does_not_stop_the_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = StatusFile(tmp_path / "state")
    file.path.unlink()
    (tmp_path / "state").rmdir()
    (tmp_path / "state").write_text("not a folder")
    file.working("training", run="r", round=1)
    assert "could not be written" in caplog.text
