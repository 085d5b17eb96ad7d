"""What a federation is compared with: each baseline from the same weights and on the same subjects."""

import dataclasses
import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from torch import nn

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig, TrainingConfig
from agi_core.evaluation import evaluate
from agi_core.metrics import mean_over_subjects
from agi_core.network import Network
from agi_core.readout import own_readout, readout_statistics
from agi_core.ridge import STRENGTH, Statistics, solve_own
from agi_core.run.event_log import EventLog, events_of
from agi_core.run.events import BaselineFinished
from agi_core.run.scores import Scores
from agi_core.voxel_regression import AlignedRegression, VoxelRegression
from simulations.baselines import SitesData, open_sites, run_baselines, with_own_weights
from simulations.sites import find_sites, write_sites
from tests.support.small_data import SMALL


def opened(config: RunConfig, run_dir: Path) -> tuple[RunConfig, SitesData]:
    config, federation = find_sites(config)
    return config, open_sites(config, write_sites(run_dir, config, federation))


def test_voxel_regression_is_one_fit_over_all_training_sites(small_config: RunConfig, tmp_path: Path) -> None:
    config, data = opened(dataclasses.replace(small_config, clients=2), tmp_path)
    scores = run_baselines(["voxel_regression"], config=config, data=data, run_dir=tmp_path, events=EventLog(tmp_path))[
        "voxel_regression"
    ]
    sessions = [session for slices in data.training.values() for session in slices.sessions]
    fit = VoxelRegression.fit(sessions)
    for site, tested in {**data.test, **data.unseen}.items():
        expected = mean_over_subjects(evaluate(fit, [(session, None) for session in tested]).values())
        assert {**scores.sites, **scores.unseen_sites}[site].metrics == pytest.approx(expected)
    assert set(scores.unseen_sites) == {"IOP"}
    psnrs, counts = zip(*((score.psnr_db, score.subjects) for score in scores.sites.values()), strict=True)
    assert scores.final["psnr_db"] == pytest.approx(np.average(psnrs, weights=counts))
    (told,) = events_of(tmp_path, BaselineFinished)
    assert (told.name, told.scores) == ("voxel_regression", scores)


def test_a_finished_baseline_is_kept(small_config: RunConfig, tmp_path: Path) -> None:
    config, data = opened(small_config, tmp_path)
    kept = {"final": {"psnr_db": 99.0}, "sites": {}, "unseen_sites": {}}
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines" / "centralised.json").write_text(json.dumps(kept))
    results = run_baselines(["centralised"], config=config, data=data, run_dir=tmp_path, events=EventLog(tmp_path))
    assert results["centralised"].final == {"psnr_db": 99.0}


def test_a_damaged_baseline_is_made_again(small_config: RunConfig, tmp_path: Path) -> None:
    config, data = opened(small_config, tmp_path)
    path, made = tmp_path / "baselines" / "voxel_regression.json", []
    for content in ("", "{", '{"final": 3}'):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        scores = run_baselines(
            ["voxel_regression"], config=config, data=data, run_dir=tmp_path, events=EventLog(tmp_path)
        )
        made.append(scores["voxel_regression"])
        assert Scores.read(path) == made[-1]
    assert made[0].sites
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_initial_weights_are_scored_as_they_are(ixi_dir: Path, cache_dir: Path, tmp_path: Path, dims: int) -> None:
    """In 3-D through windows of the crop's size: a run that started from a file once died here."""
    crop = "grid.crop=[32,32,16]" if dims == 3 else "grid.crop=[32,32]"
    overrides = {"data.dir": str(ixi_dir), "data.cache_dir": str(cache_dir), "clients": 1}
    given = load_config(None, overrides=overrides, assignments=[*SMALL, f"model.dims={dims}", crop, "seed=7"])
    weights = Network(given).weights
    (tmp_path / "start.safetensors").write_bytes(save(weights))
    start = dataclasses.replace(given, seed=0, initial_weights=str(tmp_path / "start.safetensors"))
    config, data = opened(start, tmp_path)
    scores = run_baselines(["initial_weights"], config=config, data=data, run_dir=tmp_path, events=EventLog(tmp_path))[
        "initial_weights"
    ]
    network = Network(config)
    network.load(weights)
    expected = mean_over_subjects(evaluate(network, [(session, None) for session in data.test["Guys"]]).values())
    assert scores.sites["Guys"].metrics == pytest.approx(expected)


def test_local_only_has_one_model_per_site_and_their_mean_at_unseen_ones(
    small_config: RunConfig, tmp_path: Path
) -> None:
    config, data = opened(dataclasses.replace(small_config, clients=2, rounds=1), tmp_path)
    results = run_baselines(["local_only"], config=config, data=data, run_dir=tmp_path, events=EventLog(tmp_path))
    local = results["local_only"]
    assert set(local.sites) == set(local.unseen_by_model) == {"Guys", "HH"}
    psnrs = [scores["IOP"].psnr_db for scores in local.unseen_by_model.values()]
    assert psnrs[0] != psnrs[1]
    assert local.unseen_sites["IOP"].psnr_db == pytest.approx(np.mean(psnrs))


def test_training_alone_begins_with_a_prior_of_its_own_and_is_held_to_no_weights(
    small_config: RunConfig, tmp_path: Path
) -> None:
    """After a step of no length it is its own regression, whatever the federation's sites make their own."""
    still = dataclasses.replace(small_config.training, local_steps=1, learning_rate=1e-12)
    model = dataclasses.replace(small_config.model, prior="cubic")
    start = dataclasses.replace(small_config, clients=2, rounds=1, personal="none", model=model, training=still)
    config, data = opened(start, tmp_path)

    def alone(training: TrainingConfig) -> Scores:
        its, run_dir = dataclasses.replace(config, training=training), tmp_path / uuid.uuid4().hex
        run_dir.mkdir()
        return run_baselines(["local_only"], config=its, data=data, run_dir=run_dir, events=EventLog(run_dir))[
            "local_only"
        ]

    network = Network(config)
    for site, score in alone(still).sites.items():
        own = solve_own(data.prior_statistics[site], towards=np.zeros_like(network.prior))
        tested = [(session, None) for session in data.test[site]]
        expected = mean_over_subjects(evaluate(AlignedRegression(network, own), tested).values())
        assert score.psnr_db == pytest.approx(expected["psnr_db"], abs=1e-3)
    learns = dataclasses.replace(still, local_steps=4, learning_rate=0.01)
    held = dataclasses.replace(learns, proximal=1e6)
    assert alone(held) == alone(learns) != alone(still)


@pytest.mark.parametrize(("compiled", "networks"), [(True, 3), (False, 0)])
def test_baselines_are_compiled_where_the_federation_is(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool, networks: int
) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: asked.append(module))
    config, data = opened(dataclasses.replace(small_config, clients=2, rounds=1, compile=compiled), tmp_path)
    run_baselines(["local_only", "centralised"], config=config, data=data, run_dir=tmp_path, events=EventLog(tmp_path))
    assert len(asked) == networks


def test_centralised_training_ends_with_a_solved_last_layer_where_the_federation_does(
    small_config: RunConfig, tmp_path: Path
) -> None:
    """After a step of no length it is the last layer of all training subjects on the initial weights."""
    still = dataclasses.replace(small_config.training, local_steps=1, learning_rate=1e-12)
    start = dataclasses.replace(small_config, clients=2, rounds=1, personal="head", training=still)
    config, data = opened(start, tmp_path)
    network = Network(config)
    of_sites = [readout_statistics(network, slices.sessions).values() for slices in data.training.values()]
    of_all = Statistics.mean([statistics for its in of_sites for statistics in its])
    network.set_readout(of_all.solve(strength=STRENGTH, towards=network.readout))
    for personal, is_solved in (("head", True), ("none", False)):
        its, run_dir = dataclasses.replace(config, personal=personal), tmp_path / personal
        run_dir.mkdir()
        results = run_baselines(["centralised"], config=its, data=data, run_dir=run_dir, events=EventLog(run_dir))
        for site, score in results["centralised"].sites.items():
            tested = [(session, None) for session in data.test[site]]
            expected = mean_over_subjects(evaluate(network, tested).values())["psnr_db"]
            assert (score.psnr_db == pytest.approx(expected, abs=1e-2)) == is_solved


def test_a_last_layer_of_ones_own_is_solved_at_each_site_and_leaves_the_model_as_it_was(
    small_config: RunConfig, tmp_path: Path
) -> None:
    config, data = opened(dataclasses.replace(small_config, clients=2), tmp_path)
    results = run_baselines(
        ["public_own_last_layer"], config=config, data=data, run_dir=tmp_path, events=EventLog(tmp_path)
    )
    network = Network(config)
    common = network.readout
    for site, slices in data.training.items():
        network.set_readout(own_readout(network, slices.sessions))
        expected = mean_over_subjects(evaluate(network, [(session, None) for session in data.test[site]]).values())
        assert results["public_own_last_layer"].sites[site].metrics == pytest.approx(expected)
        network.set_readout(common)
    assert results["public_own_last_layer"].unseen_sites == {}
    with_own_weights(network, data, task=config.task)
    np.testing.assert_array_equal(network.readout, common)
