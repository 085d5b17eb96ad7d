import json
from pathlib import Path

import pytest

from agi_core.run.events import (
    BaselineFinished,
    Event,
    Exchanging,
    IntervalSolved,
    LastLayerSolved,
    LastLayersShared,
    ModelRolledBack,
    ModelTested,
    ModelValidated,
    RangeLearnt,
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
from server.follow import NOW, describe, follow


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
        (RoundFinished(round=1, sites=["A", "B"], train_loss={}, seconds={}), "round 1: trained at A, B\n"),
        (ModelValidated(round=1, mean={"psnr_db": 20.0}, sites={}), "after round 1: validation 20.00 dB"),
        (ModelValidated(round=1, mean={}, sites={}, suppressed=["A"]), "validation is suppressed at A"),
        (ModelTested(scores=Scores({"psnr_db": 21.0})), "final test: 21.00 dB"),
        (IntervalSolved(said="90 % interval: so wide"), "90 % interval: so wide"),
        (RangeLearnt(said="known range: of 16"), "known range: of 16"),
        (LastLayersShared(sites=["A", "C"], left_out=["B"]), "for synthesize --style: A, C; without B\n"),
        (LastLayersShared(sites=[], left_out=["A"]), "no site shares its own last layer"),
        (
            LastLayerSolved(sites=["A", "C"], left_out=["B"], gains={"A": 0.5, "B": -0.1}),
            "statistics of A, C, without B; validation +0.20 dB, worst at B with -0.10 dB\n",
        ),
        (LastLayerSolved(sites=["A"]), "the last layer is solved from statistics of A\n"),
        (LastLayerSolved(sites=["A"] * 11), "the last layer is solved from statistics of 11 sites\n"),
        (LastLayerSolved(sites=["A"], why="of few"), "the last layer stays as it was trained: of few\n"),
        (
            BaselineFinished(name="local_only", final={"psnr_db": 20.5}, sites={"A": SiteScore({"psnr_db": 20.5}, 1)}),
            "alone, a mean over A: 20.50 dB",
        ),
        (
            BaselineFinished(name="regression_pooled", final={"psnr_db": 19.5}, sites={"A": SiteScore({}, 1)}),
            "regression pooled, a mean over A: 19.50 dB",
        ),
        (RunPaused(round=1, reason="round 2: 1 of 3"), "paused: round 2: 1 of 3"),
        (RunResumed(round=1), "resumed after round 1"),
    ],
)
def test_lines_for_a_person(event: Event, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follow(tmp_path / "first", event)
    printed = capsys.readouterr().out
    assert printed.startswith("first: ")
    assert line in printed


@pytest.mark.parametrize(
    "event",
    [
        ModelValidated(round=1, mean={}, sites={}),
        ModelTested(scores=Scores({})),
        RunStarted(run_id="9f", sites=["A"], unseen_sites=[]),
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_say(event: Event) -> None:
    assert describe(event) is None


def test_what_goes_on_now_is_one_small_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follow(tmp_path, Exchanging(round=1, action="train", waiting_for=["A"], answered=["B"]))
    assert json.loads((tmp_path / NOW).read_text()) == {
        "event": "exchange",
        "round": 1,
        "action": "train",
        "waiting_for": ["A"],
        "answered": ["B"],
        "failed": [],
    }
    assert capsys.readouterr().out == ""
