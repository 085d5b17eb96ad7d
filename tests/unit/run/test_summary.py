import dataclasses
import json
from pathlib import Path

import pytest

from agi_core.config.load import load_config
from agi_core.errors import RunError
from agi_core.run.event_log import EventLog
from agi_core.run.events import (
    IntervalSolved,
    LastLayerSolved,
    LastLayersShared,
    ModelTested,
    RangeLearnt,
    RoundStarted,
)
from agi_core.run.scores import Best, Scores, SiteScore
from agi_core.run.summary import read_summary, summarise, write_summary

SCORES = Scores.over({"A": SiteScore({"psnr_db": 20.0}, 2)}, {"B": SiteScore({"psnr_db": 18.0}, 1)})
IN_JSON = {
    "final": {"psnr_db": 20.0},
    "sites": {"A": {"psnr_db": 20.0, "subjects": 2}},
    "unseen_sites": {"B": {"psnr_db": 18.0, "subjects": 1}},
}
TESTED = ModelTested(scores=SCORES, suppressed=["C"], best=Best(1, 19.0, {"A": 19.0}))
DEPLOYED = {
    **IN_JSON,
    "suppressed": ["C"],
    "flags": [],
    "baselines": {},
    "best": {"round": 1, "psnr_db": 19.0, "sites": {"A": 19.0}},
    "rounds": 4,
    "wall_s": 61.3,
    "scenario": "T1,T2:PD",
    "reference": "T1",
    "model": "AGI-Net with group alignment",
    "columns": {"global": IN_JSON},
}


def summarised(run_dir: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads((run_dir / "summary.json").read_text())
    return values


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that was tested twice: the last one counts."""
    for event in (ModelTested(scores=Scores({})), TESTED, RoundStarted(round=1)):
        EventLog(tmp_path).append(event)
    config = load_config(None, overrides={"rounds": 4, "scenario": "T1,T2:PD", "reference": "T1"})
    write_summary(tmp_path, summarise(tmp_path, config, wall_s=61.26))
    return tmp_path


def test_a_deployed_run_tells_the_test_and_what_it_is_of(run_dir: Path) -> None:
    assert [*summarised(run_dir).items()] == [*DEPLOYED.items()]


def test_a_simulation_tells_more(run_dir: Path) -> None:
    summary = read_summary(run_dir)
    assert summary is not None
    known = {"synthetic": True, "anatomies": 2, "privacy": {"A": {"epsilon": 7.5}}, "delta": 1e-5}
    interval = IntervalSolved(said="an interval", factor=2.5, subjects={"A": 1}, covered={"A": 0.92}, left_out=["C"])
    learnt = RangeLearnt(said="a range", subjects={"A": 5}, left_out=["C"])
    federated = {"personal": SCORES, "interval": interval, "known_range": learnt}
    whole = dataclasses.replace(summary, baselines={"local_only": SCORES}, **federated, **known)
    write_summary(run_dir, whole)
    rows = {"local_only": {"psnr_db": 20.0, **IN_JSON}}
    columns = {"alone": IN_JSON, "global": IN_JSON, "personal": IN_JSON}
    more = {"baselines": rows, "personal": IN_JSON, "columns": columns, "interval": interval.to_json()}
    more["known_range"] = learnt.to_json()
    assert summarised(run_dir) == DEPLOYED | more | known
    assert read_summary(run_dir) == whole


def test_whose_last_layers_the_run_has_is_told(run_dir: Path) -> None:
    log = EventLog(run_dir)
    log.append(solved := LastLayerSolved(sites=["A"], gains={"A": 0.5}))
    log.append(LastLayersShared(sites=["A"], left_out=["B"]))
    write_summary(run_dir, summarise(run_dir, load_config(None, overrides={"scenario": "T1,T2:PD"}), wall_s=1.0))
    assert summarised(run_dir)["styles"] == {"sites": ["A"], "left_out": ["B"]}
    summary = read_summary(run_dir)
    assert summary is not None
    assert (summary.last_layer, summary.styles) == (solved, LastLayersShared(sites=["A"], left_out=["B"]))


def test_an_anatomy_that_was_held_back_is_told(run_dir: Path) -> None:
    config = load_config(None, overrides={"data.unseen_anatomy": "ms19"})
    write_summary(run_dir, summary := summarise(run_dir, config, wall_s=1.0))
    assert summarised(run_dir)["unseen_anatomy"] == "ms19"
    assert read_summary(run_dir) == summary


def test_no_summary_yet_and_a_damaged_one(tmp_path: Path) -> None:
    assert read_summary(tmp_path) is None
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary\.json is damaged"):
        read_summary(tmp_path)


def test_figures_are_numbers_or_absent(run_dir: Path) -> None:
    summary = read_summary(run_dir)
    assert summary is not None
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_summary(run_dir, dataclasses.replace(summary, wall_s=float("nan")))
    assert summarised(run_dir) == DEPLOYED


def test_personal_figures_that_sites_do_not_tell_are_looked_at_too(run_dir: Path) -> None:
    own = Scores.over({"A": SiteScore({"psnr_db": 19.5}, 2)}, {})
    config = load_config(None, overrides={})
    summary = summarise(run_dir, config, wall_s=1.0, personal=own)
    assert summary.personal == own
    assert [*summary.flags] == ["A: its personal model is 0.50 dB below the global one (19.50 and 20.00 dB)"]


@pytest.mark.parametrize("align_target", [False, True])
def test_a_regression_at_the_targets_own_place_is_no_rival_of_a_model_on_the_reference(
    run_dir: Path, align_target: bool
) -> None:
    config = load_config(None, overrides={"training.align_target": align_target})
    better = Scores.over({"A": SiteScore({"psnr_db": 21.0}, 2)}, {})
    summary = summarise(run_dir, config, wall_s=1.0, baselines={"voxel_regression": better})
    assert [flag.partition(":")[0] for flag in summary.flags] == ["the model is below voxel regression"][align_target:]
