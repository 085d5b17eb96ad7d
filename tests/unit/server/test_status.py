from pathlib import Path

import pytest

from agi_core.config.load import load_config
from agi_core.run import run_folder
from agi_core.run.run_folder import EventLog
from server import run_state, status

ROUND = {"round": 1}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run_dir = tmp_path / "r"
    run_folder.create(run_dir, load_config(None, overrides={"federation.sites": ["A", "B", "C"]}))
    return run_dir


def test_a_run_that_has_not_begun(run_dir: Path) -> None:
    current = status.run_status(run_dir)
    assert (current["state"], current["round"], current["rounds"]) == ("interrupted", 0, 6)


def test_failures_of_this_round_only(run_dir: Path) -> None:
    events = EventLog(run_dir)
    for round, site in ((1, "A"), (2, "B")):
        events.append("round_started", round=round)
        events.append("site_missing", round=round, site=site, action="train", reason="not connected")
    events.append("update_refused", round=2, site="C", reason="NaN")
    events.append("validated", round=1, mean={"psnr_db": 21.5}, sites={})
    current = status.run_status(run_dir)
    assert (current["round"], current["failed"], current["refused"]) == (2, ["B"], ["C"])
    assert current["validation_psnr_db"] == 21.5


def test_what_goes_on_now_is_shown_while_it_goes_on(run_dir: Path) -> None:
    news = {"event": "exchange", "round": 1, "action": "train", "waiting_for": ["A"], "answered": ["B"], "failed": []}
    status.follow(run_dir, news)
    assert status.run_status(run_dir)["waiting_for"] == []
    with run_state.holding(run_dir):
        current = status.run_status(run_dir)
    assert (current["state"], current["waiting_for"], current["answered"]) == ("running", ["A"], ["B"])


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"event": "waiting", "sites": ["A", "B"], "limit_s": 600.0, **ROUND}, "round 1: waiting up to 600 s for A, B"),
        ({"event": "site_failed", "site": "A", "action": "train", "reason": "memory", **ROUND}, "A: train: memory"),
        (
            {"event": "site_missing", "site": "A", "action": "train", "reason": "not connected", **ROUND},
            "not connected",
        ),
        ({"event": "update_refused", "site": "A", "reason": "NaN", **ROUND}, "A: update refused: NaN"),
        ({"event": "update_clipped", "site": "A", "reason": "cut down", **ROUND}, "round 1: A: cut down"),
        ({"event": "site_sat_out", "site": "A", "reason": "budget", "action": "train", **ROUND}, "A sits out: budget"),
        ({"event": "site_quarantined", "site": "A", **ROUND}, "python -m server release A"),
        ({"event": "rolled_back", "to": 0, "sites": ["A", "B"], **ROUND}, "worse at A, B: back to that after round 0"),
        ({"event": "validated", "mean": {}, "sites": {}, "suppressed": ["A"], **ROUND}, "suppressed at A"),
        ({"event": "paused", "reason": "round 2: 1 of 3", **ROUND}, "paused: round 2: 1 of 3"),
        ({"event": "validated", "mean": {"psnr_db": 20.0}, "sites": {}, **ROUND}, "validation 20.00 dB"),
    ],
)
def test_lines_for_a_person(
    event: dict[str, object], line: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status.follow(run_dir, event)
    assert line in capsys.readouterr().out


def test_tensorboard_shows_each_site(run_dir: Path) -> None:
    tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = EventLog(run_dir)
    events.append("validated", round=0, mean={"psnr_db": 15.0}, sites={"A": {"psnr_db": 15.0, "subjects": 2}})
    for round in (1, 2):
        events.append("round_finished", round=round, train_loss={"A": 0.5 / round}, seconds={"A": 3.0})
    for _ in range(2):  # written anew, not added to
        folder = tensorboard.write_scalars(run_dir)
    written = tensorboard.EventAccumulator(str(folder))
    written.Reload()
    assert set(written.Tags()["scalars"]) == {
        "train_loss/A",
        "seconds/A",
        "validation_psnr_db/A",
        "validation_psnr_db/all sites",
    }
    assert [(point.step, point.value) for point in written.Scalars("train_loss/A")] == [(1, 0.5), (2, 0.25)]


def test_who_sits_out_is_shown_until_it_answers_again(run_dir: Path) -> None:
    events = EventLog(run_dir)
    for site in ("A", "B"):
        events.append("site_sat_out", site=site, round=1, action="train", reason="policy")
    events.append("site_sat_out", site="C", round=1, action="evaluate", reason="policy")  # it trains all the same
    assert status.run_status(run_dir)["sitting_out"] == {"A": "policy", "B": "policy"}
    events.append("round_finished", round=2, sites=["B", "C"], train_loss={}, seconds={})
    events.append("validated", round=2, mean={}, sites={}, suppressed=["B"])
    current = status.run_status(run_dir)
    assert current["sitting_out"] == {"A": "policy"}
    assert current["suppressed"] == ["B"]
