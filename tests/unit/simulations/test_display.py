"""What is shown, on a terminal and in a file."""

import dataclasses
import io
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from agi_core.config.schema import FederationConfig, RunConfig, TrainingConfig
from agi_core.run import progress
from agi_core.run.events import (
    BaselineFinished,
    ModelRolledBack,
    ModelValidated,
    RoundFinished,
    RoundStarted,
    SiteFailed,
    SiteMissing,
)
from agi_core.run.progress import Step
from agi_core.run.scores import SiteScore
from simulations.display import Display, of_sites

CONFIG = dataclasses.replace(
    RunConfig(),
    rounds=2,
    training=TrainingConfig(local_steps=4),
    federation=FederationConfig(sites=["Guys", "HH"]),
)


def shown(play: Callable[[], None], *, terminal: bool) -> str:
    text = io.StringIO()
    with Display(Console(file=text, width=80, force_terminal=terminal), CONFIG).showing():
        play()
    return text.getvalue()


def first_round() -> None:
    progress.report(RoundStarted(round=1))
    for site in ("Guys", "HH"):
        for step in range(1, 5):
            progress.report(Step("round 1/2", site, step, 4, loss=0.5))
    sites = {"Guys": SiteScore({"psnr_db": 20.0}, 1), "HH": SiteScore({"psnr_db": 22.0}, 1)}
    progress.report(ModelValidated(round=0, mean={"psnr_db": 21.0}, sites=sites))
    progress.report(RoundStarted(round=2))


def test_a_file_gets_one_line_per_round_and_no_control_codes() -> None:
    assert shown(first_round, terminal=False) == "before training: validation 21.00 dB   [Guys 20.0  HH 22.0]\n"


def test_a_terminal_gets_round_site_step_loss_time_left_and_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 3))  # three seconds per step
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    lines: list[str] = []

    def play() -> None:
        first_round()
        progress.report(Step("round 2/2", "Guys", 1, 4, loss=0.25))
        lines.extend(visible(live))

    live = Display(Console(file=io.StringIO(), force_terminal=True), CONFIG)
    with live.showing():
        play()
    # 7 of 16 steps are left; nine are done, eight of them timed, three seconds each
    assert lines == ["round 2/2  Guys 1/4 loss 0.2500  21 s left  validation 21.00 dB"]


def test_each_site_at_work_has_a_line_until_it_is_done() -> None:
    live, lines = Display(Console(file=io.StringIO(), force_terminal=True), CONFIG), []
    with live.showing():
        lines.append(visible(live))
        for site, step in (("HH", 1), ("Guys", 3), ("HH", 4)):
            progress.report(Step("local-only", site, step, 4))
            lines.append(visible(live))
        progress.report(Step("local-only", "Guys", 4, 4))
        lines.append(visible(live))
    assert lines == [
        ["starting 0/1 "],
        ["local-only  HH 1/4 "],
        ["local-only  HH 1/4 ", "local-only  Guys 3/4 "],
        ["local-only  Guys 3/4 "],
        ["local-only 0/1 "],
    ]


def visible(live: Display) -> list[str]:
    return [
        f"{task.description} {task.completed}/{task.total} {task.fields['note']}"
        for task in live._live.tasks
        if task.visible
    ]


def test_failures_and_baselines_are_named() -> None:
    def play() -> None:
        progress.report(ModelValidated(round=0, mean={}, sites={}))
        progress.report(RoundFinished(round=1, train_loss={"Guys": 0.25, "HH": 0.5}, seconds={}))
        progress.report(SiteFailed(site="HH", round=2, action="train", reason="no scans"))
        progress.report(SiteMissing(site="Guys", round=2, action="train", reason="no answer"))
        progress.report(ModelRolledBack(round=2, to=1, sites=["Guys", "HH"]))
        progress.report(BaselineFinished(name="local_only", final={"psnr_db": 20.5}))
        progress.report(BaselineFinished(name="centralised", final={}))
        unseen = {"IOP": SiteScore({"psnr_db": 19.0}, 1), "HH": SiteScore({"psnr_db": 20.0}, 3)}
        progress.report(BaselineFinished(name="initial_weights", final={}, unseen_sites=unseen))
        progress.report(BaselineFinished(name="voxel_regression", final={"psnr_db": 18.0}, unseen_sites=unseen))

    assert shown(play, terminal=False).splitlines() == [
        "after round 1/2: training loss   [Guys 0.2500  HH 0.5000]",
        "round 2: HH: site failed: no scans",
        "round 2: Guys: site missing: no answer",
        "the model after round 2 is worse at Guys, HH: back to round 1",
        "baseline local only: 20.50 dB",
        "baseline centralised: nobody to test on",
        "baseline initial weights: 19.75 dB at unseen sites",
        "baseline voxel regression: 18.00 dB, 19.75 dB at unseen sites",
    ]


def test_of_many_sites_the_lowest_and_the_highest_are_named() -> None:
    values = {f"s{n}": float(n % 7) for n in range(12)}
    assert of_sites(values, ".1f") == "  ".join(f"{site} {value:.1f}" for site, value in values.items())
    many = {"low": -1.0, **values, "high": 9.0}
    assert of_sites(many, ".1f") == "14 sites, from low -1.0 to high 9.0"
