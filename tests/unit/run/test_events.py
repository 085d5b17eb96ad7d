"""Every kind of event against the line that stands for it in `events.jsonl`."""

import json
from pathlib import Path

import pytest

from agi_core.run import events
from agi_core.run.event_log import EventLog, read_events
from agi_core.run.events import (
    KINDS,
    BaselineFinished,
    BlendSolved,
    BlendTested,
    CellNotHeld,
    DataFound,
    Event,
    Exchanging,
    IntervalSolved,
    LastLayerSolved,
    LastLayersShared,
    ModelRolledBack,
    ModelTested,
    ModelValidated,
    PosesMeasured,
    PriorSolved,
    RangeLearnt,
    Retried,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunPaused,
    RunResumed,
    RunStarted,
    SiteEvent,
    SiteFailed,
    SiteMissing,
    SiteQuarantined,
    SiteSatOut,
    UpdateClipped,
    UpdateRefused,
    Waiting,
    Warned,
    made_in,
)
from agi_core.run.scores import Best, Scores, SiteScore

GUYS, HH = SiteScore({"psnr_db": 20.5, "ssim": 0.5}, 2), SiteScore({"psnr_db": 22.0}, 1)
LINES: list[tuple[Event, str]] = [
    (
        DataFound(
            text="3 subjects",
            sites={"Guys": 2},
            unseen_sites={"HH": 1},
            synthetic=True,
            anatomies=2,
            skipped={"no PD": 1},
        ),
        '"data_found", "text": "3 subjects", "sites": {"Guys": 2}, "unseen_sites": {"HH": 1}, "synthetic": true,'
        ' "anatomies": 2, "skipped": {"no PD": 1}',
    ),
    (Warned(text="spacings differ"), '"warning", "text": "spacings differ"'),
    (
        RunStarted(run_id="9f", sites=["Guys"], unseen_sites=["HH"]),
        '"run_started", "run_id": "9f", "sites": ["Guys"], "unseen_sites": ["HH"]',
    ),
    (RunResumed(round=2), '"resumed", "round": 2'),
    (RunPaused(round=2, reason="too few"), '"paused", "round": 2, "reason": "too few"'),
    (
        PosesMeasured(sites={"Guys": {"T1": 1.5}}, chosen="reference T1"),
        '"poses_measured", "sites": {"Guys": {"T1": 1.5}}, "chosen": "reference T1"',
    ),
    (PriorSolved(sites=["Guys"], why="too few"), '"prior_solved", "sites": ["Guys"], "why": "too few"'),
    (
        CellNotHeld(cell="T1,T2:PD", sites=["Guys"]),
        '"cell_not_held", "cell": "T1,T2:PD", "sites": ["Guys"]',
    ),
    (
        BlendSolved(
            cell="T1,T2:PD",
            weights={"T1:PD": 0.25, "T2:PD": 0.75},
            measured=True,
            errors={"T1:PD": 0.5, "T2:PD": 0.25},
            disagreements={"T1:PD T2:PD": 0.5},
        ),
        '"blend_solved", "cell": "T1,T2:PD", "weights": {"T1:PD": 0.25, "T2:PD": 0.75}, "measured": true,'
        ' "errors": {"T1:PD": 0.5, "T2:PD": 0.25}, "disagreements": {"T1:PD T2:PD": 0.5}',
    ),
    (
        BlendTested(cell="T1,T2:PD", weights={"T1:PD": 1.0}, said="22.00 dB at HH", scores=Scores.over({}, {"HH": HH})),
        '"blend_tested", "cell": "T1,T2:PD", "weights": {"T1:PD": 1.0}, "said": "22.00 dB at HH", "scores":'
        ' {"final": {}, "sites": {}, "unseen_sites": {"HH": {"psnr_db": 22.0, "subjects": 1}}}',
    ),
    (RoundStarted(round=1), '"round_started", "round": 1'),
    (
        RoundFinished(
            round=1, sites=["Guys", "HH"], train_loss={"Guys": 0.25}, seconds={"Guys": 3.5}, subjects={"Guys": 9}
        ),
        '"round_finished", "round": 1, "sites": ["Guys", "HH"], "train_loss": {"Guys": 0.25}, "seconds": {"Guys": 3.5},'
        ' "subjects": {"Guys": 9}',
    ),
    (
        ModelValidated(round=0, mean={"psnr_db": 21.0}, sites={"Guys": GUYS, "HH": HH}, suppressed=["IOP"]),
        '"validated", "round": 0, "mean": {"psnr_db": 21.0}, "sites": {"Guys": {"psnr_db": 20.5, "ssim": 0.5,'
        ' "subjects": 2}, "HH": {"psnr_db": 22.0, "subjects": 1}}, "suppressed": ["IOP"]',
    ),
    (ModelRolledBack(round=3, to=1, sites=["Guys"]), '"rolled_back", "round": 3, "to": 1, "sites": ["Guys"]'),
    (
        ModelTested(
            scores=Scores({"psnr_db": 20.5}, {"Guys": GUYS}, {"HH": HH}),
            suppressed=["IOP"],
            best=Best(1, 21.0, {"Guys": 21.0}),
        ),
        '"tested", "final": {"psnr_db": 20.5}, "sites": {"Guys": {"psnr_db": 20.5, "ssim": 0.5, "subjects": 2}},'
        ' "unseen_sites": {"HH": {"psnr_db": 22.0, "subjects": 1}}, "suppressed": ["IOP"],'
        ' "best": {"round": 1, "psnr_db": 21.0, "sites": {"Guys": 21.0}}',
    ),
    (
        LastLayerSolved(sites=["Guys"], left_out=["HH"], gains={"Guys": 0.25}),
        '"last_layer_solved", "sites": ["Guys"], "left_out": ["HH"], "gains": {"Guys": 0.25}, "why": ""',
    ),
    (
        IntervalSolved(said="so wide", factor=2.5, subjects={"Guys": 1}, covered={"Guys": 0.9}, left_out=["HH"]),
        '"interval_solved", "said": "so wide", "factor": 2.5, "subjects": {"Guys": 1}, "covered": {"Guys": 0.9},'
        ' "left_out": ["HH"]',
    ),
    (
        RangeLearnt(said="of one", subjects={"Guys": 1}, left_out=["HH"]),
        '"range_learnt", "said": "of one", "subjects": {"Guys": 1}, "left_out": ["HH"]',
    ),
    (
        LastLayersShared(sites=["Guys"], left_out=["HH"]),
        '"last_layers_shared", "sites": ["Guys"], "left_out": ["HH"]',
    ),
    (
        BaselineFinished(name="local_only", final={"psnr_db": 22.0}, sites={"HH": HH}),
        '"baseline_finished", "name": "local_only", "final": {"psnr_db": 22.0}, "sites": {"HH": {"psnr_db": 22.0,'
        ' "subjects": 1}}, "unseen_sites": {}',
    ),
    (RunFinished(), '"run_finished"'),
    (
        Waiting(round=1, sites=["HH"], limit_s=600.0),
        '"waiting", "round": 1, "sites": ["HH"], "limit_s": 600.0',
    ),
    (
        Retried(round=1, action="train", answered=["Guys"]),
        '"retried", "round": 1, "action": "train", "answered": ["Guys"]',
    ),
    (
        Exchanging(round=1, action="train", waiting_for=["HH"], answered=["Guys"], failed=[]),
        '"exchange", "round": 1, "action": "train", "waiting_for": ["HH"], "answered": ["Guys"], "failed": []',
    ),
    (
        SiteFailed(site="HH", round=1, action="train", reason="no memory"),
        '"site_failed", "site": "HH", "round": 1, "action": "train", "reason": "no memory"',
    ),
    (
        SiteMissing(site="HH", round=1, action="train", reason="not connected"),
        '"site_missing", "site": "HH", "round": 1, "action": "train", "reason": "not connected"',
    ),
    (
        SiteSatOut(site="HH", round=1, action="train", reason="budget"),
        '"site_sat_out", "site": "HH", "round": 1, "action": "train", "reason": "budget"',
    ),
    (
        UpdateClipped(site="HH", round=1, reason="3 times the limit"),
        '"update_clipped", "site": "HH", "round": 1, "reason": "3 times the limit"',
    ),
    (
        UpdateRefused(site="HH", round=1, reason="not finite", strikes=2),
        '"update_refused", "site": "HH", "round": 1, "reason": "not finite", "strikes": 2',
    ),
    (SiteQuarantined(site="HH", round=1), '"site_quarantined", "site": "HH", "round": 1'),
]


def read_lines(run_dir: Path, *lines: str) -> list[Event]:
    """What a log of these lines holds; each without its braces, time, and the key of its kind."""
    whole = (f'{{"t_s": 1.5, "event": {line}}}\n' for line in lines)
    (run_dir / "events.jsonl").write_text("".join(whole))
    return [event for _, event in read_events(run_dir)]


@pytest.mark.parametrize(("event", "line"), LINES, ids=[event.kind for event, _ in LINES])
def test_every_kind_is_written_as_its_line_and_read_back(event: Event, line: str, tmp_path: Path) -> None:
    EventLog(tmp_path).append(event)
    (written,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert written.partition('"event": ')[2] == f"{line}}}"
    assert [event for _, event in read_events(tmp_path)] == [event]
    assert read_lines(tmp_path, line) == [event]


def test_the_table_and_the_classes_agree() -> None:
    classes = [value for value in vars(events).values() if isinstance(value, type) and issubclass(value, Event)]
    assert {*classes} == {Event, SiteEvent, *KINDS.values()}
    assert [event.kind for event, _ in LINES] == [*KINDS]


def test_a_kind_of_another_release_is_an_event_and_no_more(tmp_path: Path) -> None:
    known = RoundStarted(round=1)
    assert read_lines(tmp_path, '"site_praised", "site": "HH"', '"round_started", "round": 1') == [Event(), known]


def test_a_field_of_another_release_is_left_out(tmp_path: Path) -> None:
    best = '{"round": 1, "psnr_db": 21.0, "sites": {}, "weather": "fine"}'
    (tested,) = read_lines(tmp_path, f'"tested", "final": {{}}, "mood": 1, "best": {best}')
    assert tested == ModelTested(scores=Scores({}), best=Best(1, 21.0, {}))


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (
            '"site_missing", "site": "HH", "round": 1, "action": "train"',
            SiteMissing(site="HH", round=1, action="train"),
        ),
        (
            '"update_refused", "site": "HH", "round": 1, "reason": "", "x": 1',
            UpdateRefused(site="HH", round=1, reason=""),
        ),
        ('"validated", "round": 1, "mean": {}, "sites": {}', ModelValidated(round=1, mean={}, sites={})),
        (
            '"round_finished", "round": 1, "train_loss": {}, "seconds": {}',
            RoundFinished(round=1, train_loss={}, seconds={}),
        ),
        ('"prior_solved", "sites": ["Guys"]', PriorSolved(sites=["Guys"])),
        ('"tested", "final": {}, "sites": {}, "unseen_sites": {}, "best": null', ModelTested(scores=Scores({}))),
        ('"data_found", "text": "", "sites": {}, "unseen_sites": {}', DataFound(text="", sites={}, unseen_sites={})),
    ],
)
def test_a_line_of_before_has_defaults_for_what_was_added_since(line: str, event: Event, tmp_path: Path) -> None:
    assert read_lines(tmp_path, line) == [event]


def test_a_new_kind_is_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "coffee_made", Event)  # forgotten again after the test

    class CoffeeMade(Event, kind="coffee_made"):
        cups: int

    EventLog(tmp_path).append(CoffeeMade(cups=3))
    assert json.loads((tmp_path / "events.jsonl").read_text())["event"] == "coffee_made"
    assert [event for _, event in read_events(tmp_path)] == [CoffeeMade(cups=3)]


@pytest.mark.parametrize(
    ("back", "round", "expected"),
    [
        ([], 6, 6),
        ([(6, 3)], 6, 3),  # seen at the test
        ([(5, 3)], 6, 3),  # seen in the last round, whose updates are left aside
        ([(4, 3)], 6, 6),  # round 5 was left aside, and round 6 went on from round 3
        ([(2, 1), (5, 4), (6, 4)], 6, 4),
    ],
)
def test_the_round_of_the_last_weights(back: list[tuple[int, int]], round: int, expected: int) -> None:
    assert made_in([ModelRolledBack(round=at, to=to, sites=[]) for at, to in back], round=round) == expected
