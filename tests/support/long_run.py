"""The folder of a long deployed run in which sites come and go: `python -m tests.support.long_run OUT` makes one of 20
sites and 50 rounds, with its report."""

import datetime
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agi_core.config.load import load_config
from agi_core.config.schema import DEPLOYMENT
from agi_core.report.report import build_report
from agi_core.run import run_folder
from agi_core.run.events import (
    Event,
    ModelTested,
    ModelValidated,
    RoundFinished,
    RoundStarted,
    RunStarted,
    SiteFailed,
    SiteMissing,
    SiteQuarantined,
    SiteSatOut,
    UpdateRefused,
)
from agi_core.run.scores import Best, Scores, SiteScore, over_subjects
from agi_core.run.summary import summarise, write_summary

BEGAN, ROUND_S = datetime.datetime(2026, 3, 2, 7, 30, tzinfo=datetime.UTC), 1860.0


def write_long_run(run_dir: Path, *, sites: int, rounds: int, missing: float = 0.0) -> None:
    """Of the sites, the first misses every fourth round, the second sits out from the middle on, the third is in
    quarantine from round 4 on, the fourth never trains, and the fifth fails in round 2. Each site misses this part of
    the rounds as well, by chance."""
    names = [f"hospital{i:02}" for i in range(1, sites + 1)]
    subjects = {name: 20 + 3 * i for i, name in enumerate(names)}
    settings = {"federation.sites": names, "federation.subjects": subjects, "federation.quorum": 2, "rounds": rounds}
    run_folder.create(run_dir, load_config(None, overrides={**settings, "engine": DEPLOYMENT, "reference": "T2"}))
    lines = (
        {"at": (BEGAN + datetime.timedelta(seconds=t_s)).isoformat(), "t_s": t_s, "event": event.kind} | event.to_json()
        for t_s, event in _events(names, subjects, rounds=rounds, missing=missing)
    )
    (run_dir / "events.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    write_summary(run_dir, summarise(run_dir, run_folder.open_existing(run_dir), wall_s=rounds * ROUND_S))


def _events(
    names: list[str], subjects: dict[str, int], *, rounds: int, missing: float
) -> Iterator[tuple[float, Event]]:
    generator, out = np.random.default_rng(7), set()
    level = {name: 22 + 3 * generator.random() for name in names}

    def score(name: str, round: int) -> SiteScore:
        psnr_db = round_to(level[name] + 4 * (1 - np.exp(-round / (rounds / 4))) + 0.15 * generator.normal(), 4)
        return SiteScore({"psnr_db": psnr_db, "ssim": 0.9, "mae": 0.03, "nmse": 0.05}, 5)

    yield 0.0, RunStarted(run_id="1", sites=names, unseen_sites=[])
    for n in range(1, rounds + 1):
        t_s = n * ROUND_S
        yield t_s - ROUND_S, RoundStarted(round=n)
        away = {names[3]} | ({names[0]} if n % 4 == 0 else set())
        away |= {name for name in names if missing and generator.random() < missing}
        for name in sorted(away):
            yield t_s, SiteMissing(site=name, round=n, action="train", reason="not connected")
        if n == 2:
            away.add(names[4])
            yield t_s, SiteFailed(site=names[4], round=n, action="train", reason="out of memory")
        if n == rounds // 2:
            out.add(names[1])
            yield t_s, SiteSatOut(site=names[1], round=n, action="train", reason="privacy budget exhausted")
        if n in (2, 3, 4):
            out.add(names[2])
            yield t_s, UpdateRefused(site=names[2], round=n, reason="its change is too large", strikes=n - 1)
        if n == 4:
            yield t_s, SiteQuarantined(site=names[2], round=n)
        trained = [name for name in names if name not in away | out]
        loss = {name: round_to(0.1 / (1 + n / 8) + 0.01 * generator.random(), 5) for name in trained}
        counts = {name: subjects[name] - 2 for name in trained}
        seconds = dict.fromkeys(trained, 900.0)
        yield t_s, RoundFinished(round=n, sites=trained, train_loss=loss, seconds=seconds, subjects=counts)
        validated = {name: score(name, n) for name in trained}
        yield t_s, ModelValidated(round=n, mean=over_subjects(validated), sites=validated)
    tested = {name: score(name, rounds) for name in names if name != names[3]}
    best = Best(round=rounds - 1, psnr_db=27.0)
    yield rounds * ROUND_S, ModelTested(scores=Scores.over(tested, {}), suppressed=[names[3]], best=best)


def round_to(value: float, digits: int) -> float:
    return round(float(value), digits)


if __name__ == "__main__":
    write_long_run(Path(sys.argv[1]), sites=20, rounds=50)
    print(build_report(Path(sys.argv[1])))
