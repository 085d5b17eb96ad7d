from pathlib import Path

import pytest

from agi_core.config.load import load_config
from agi_core.run import run_folder
from agi_core.run.event_log import EventLog
from agi_core.run.events import (
    Event,
    Exchanging,
    ModelRolledBack,
    ModelTested,
    ModelValidated,
    Retried,
    RoundFinished,
    RoundStarted,
    RunPaused,
    RunResumed,
    RunStarted,
    SiteFailed,
    SiteMissing,
    SiteQuarantined,
    SiteSatOut,
    UpdateClipped,
    UpdateRefused,
    Waiting,
)
from agi_core.run.scores import Scores, SiteScore
from server import run_state, status


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
        events.append(RoundStarted(round=round))
        events.append(SiteMissing(round=round, site=site, action="train", reason="not connected"))
    events.append(UpdateRefused(round=2, site="C", reason="NaN"))
    events.append(ModelValidated(round=1, mean={"psnr_db": 21.5}, sites={}))
    current = status.run_status(run_dir)
    assert (current["round"], current["failed"], current["refused"]) == (2, ["B"], ["C"])
    assert current["validation_psnr_db"] == 21.5


def test_what_goes_on_now_is_shown_while_it_goes_on(run_dir: Path) -> None:
    status.follow(run_dir, Exchanging(round=1, action="train", waiting_for=["A"], answered=["B"]))
    assert status.run_status(run_dir)["waiting_for"] == []
    with run_state.holding(run_dir):
        current = status.run_status(run_dir)
    assert (current["state"], current["waiting_for"], current["answered"]) == ("running", ["A"], ["B"])


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Waiting(round=1, sites=["A", "B"], limit_s=600.0), "round 1: waiting up to 600 s for A, B to connect"),
        (RoundStarted(round=1), "round 1: sites are training"),
        (SiteFailed(site="A", round=1, action="train", reason="memory"), "round 1: A: train: memory"),
        (SiteMissing(site="A", round=1, action="train", reason="not connected"), "round 1: A: train: not connected"),
        (UpdateRefused(site="A", round=1, reason="NaN"), "round 1: A: update refused: NaN"),
        (UpdateClipped(site="A", round=1, reason="cut down"), "round 1: A: cut down"),
        (SiteSatOut(site="A", round=1, action="train", reason="budget"), "round 1: A sits out: budget"),
        (SiteQuarantined(site="A", round=1), "A is in quarantine; let it out with: python -m server release A"),
        (ModelRolledBack(round=1, to=0, sites=["A", "B"]), "is worse at A, B: back to that after round 0"),
        (Retried(round=1, action="train", answered=[]), "round 1: too few answers; asking again to train"),
        (RoundFinished(round=1, sites=["A", "B"], train_loss={}, seconds={}), "round 1: averaged A, B"),
        (ModelValidated(round=1, mean={"psnr_db": 20.0}, sites={}), "after round 1: validation 20.00 dB"),
        (ModelValidated(round=1, mean={}, sites={}, suppressed=["A"]), "validation is suppressed at A"),
        (ModelTested(scores=Scores({"psnr_db": 21.0})), "final test: 21.00 dB"),
        (RunPaused(round=1, reason="round 2: 1 of 3"), "paused: round 2: 1 of 3"),
        (RunResumed(round=1), "resumed after round 1"),
    ],
)
def test_lines_for_a_person(event: Event, line: str, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status.follow(run_dir, event)
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    "event",
    [
        ModelValidated(round=1, mean={}, sites={}),
        ModelTested(scores=Scores({})),
        RunStarted(run_id="9f", sites=["A"], unseen_sites=[]),
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_say(event: Event) -> None:
    assert status.describe(event) is None


def test_tensorboard_shows_each_site(run_dir: Path) -> None:
    tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = EventLog(run_dir)
    events.append(ModelValidated(round=0, mean={"psnr_db": 15.0}, sites={"A": SiteScore({"psnr_db": 15.0}, 2)}))
    for round in (1, 2):
        events.append(RoundFinished(round=round, sites=["A"], train_loss={"A": 0.5 / round}, seconds={"A": 3.0}))
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
        events.append(SiteSatOut(site=site, round=1, action="train", reason="policy"))
    events.append(SiteSatOut(site="C", round=1, action="evaluate", reason="policy"))  # it trains all the same
    assert status.run_status(run_dir)["sitting_out"] == {"A": "policy", "B": "policy"}
    events.append(RoundFinished(round=2, sites=["B", "C"], train_loss={}, seconds={}))
    events.append(ModelValidated(round=2, mean={}, sites={}, suppressed=["B"]))
    current = status.run_status(run_dir)
    assert current["sitting_out"] == {"A": "policy"}
    assert current["suppressed"] == ["B"]
