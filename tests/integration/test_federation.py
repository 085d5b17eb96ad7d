"""The federation as a whole, on small real files, in one process."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.errors import DataError, RunError
from agi_core.evaluation import evaluate
from agi_core.metrics import mean_over_subjects
from agi_core.models.agi_net import build_model
from agi_core.network import Network
from agi_core.protocol import ARRAYS
from agi_core.readout import readout_statistics
from agi_core.ridge import STRENGTH, Statistics
from agi_core.run import checkpoint, run_folder
from agi_core.run.checkpoint import load_last, load_weights
from agi_core.run.event_log import events_of
from agi_core.run.events import (
    LastLayerSolved,
    ModelTested,
    ModelValidated,
    PriorSolved,
    RoundFinished,
    RunStarted,
    SiteFailed,
)
from agi_core.run.initial_weights import initial_weights
from agi_core.run.own_weights import load_own_weights, own_weights_path
from agi_core.training import train_round
from client.app import app as client_app
from client.site.opened import open_site
from server import run_state
from server.app import app as server_app
from simulations.local_grid import run_in_process
from simulations.sites import find_sites, write_sites
from tests.support.events import kinds_of
from tests.support.small_federation import Saboteur, assert_same_weights, federate


def test_a_run_from_scans_to_figures(small_config: RunConfig, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    federate(small_config, run_dir)
    assert kinds_of(run_dir) == [
        "run_started",
        *["round_started", "validated", "round_finished"] * 2,
        "validated",
        "tested",
        "interval_solved",
        "range_learnt",
    ]
    assert [event.round for event in events_of(run_dir, ModelValidated)] == [0, 1, 2]
    (tested,) = events_of(run_dir, ModelTested)
    scores = tested.scores
    assert {site: score.subjects for site, score in scores.sites.items()} == {"Guys": 1, "HH": 1, "IOP": 1}
    assert scores.final["psnr_db"] == pytest.approx(np.mean([score.psnr_db for score in scores.sites.values()]))
    assert (
        sorted(path.name for path in (run_dir / "checkpoints").iterdir() if path.suffix == ".json")[-1]
        == "state-00002.json"
    )


def test_a_prior_is_solved_once_and_each_site_ends_with_its_own_last_layer(
    small_config: RunConfig, tmp_path: Path
) -> None:
    config = load_config(None, overrides={}, assignments=["model.prior=cubic", "personal=head"], base=small_config)
    site_paths = federate(config, tmp_path / "run")
    assert kinds_of(tmp_path / "run")[:3] == ["run_started", "prior_solved", "round_started"]
    (solved,) = events_of(tmp_path / "run", PriorSolved)
    assert solved.sites == ["Guys", "HH", "IOP"]
    untrained, *_ = events_of(tmp_path / "run", ModelValidated)
    assert untrained.mean["psnr_db"] > 15  # a network with random weights has 5 to 9 dB

    task = run_folder.open_existing(tmp_path / "run").task
    scans = {site: open_site(path).scans(task) for site, path in site_paths.items()}
    everybody = [subject for site in scans.values() for subject in site.prior_statistics.values()]
    network = Network(task)
    state, _ = run_state.load(tmp_path / "run") or pytest.fail("the run has no checkpoint")
    network.load({**state.weights, **state.trained_layer})
    pooled = Statistics.mean(everybody).solve(strength=STRENGTH)
    np.testing.assert_allclose(network.module.prior.coefficients.numpy(), pooled, rtol=1e-4, atol=1e-5)

    (last,) = events_of(tmp_path / "run", LastLayerSolved)
    assert (last.sites, [*last.gains], last.why) == (["Guys", "HH", "IOP"], ["Guys", "HH", "IOP"], "")
    of_sites = [readout_statistics(network, its.training.sessions).values() for its in scans.values()]
    whole = Statistics.mean([statistics for its in of_sites for statistics in its])
    solved_layer = whole.solve(strength=STRENGTH, towards=network.readout)
    network.load(load_weights(tmp_path / "run"))
    np.testing.assert_allclose(network.readout, solved_layer, rtol=1e-3, atol=1e-4)

    (tested,) = events_of(tmp_path / "run", ModelTested)
    assert tested.personal is not None
    for site, score in tested.personal.sites.items():
        run_id = events_of(tmp_path / "run", RunStarted)[0].run_id
        state_dir = Path(open_site(site_paths[site]).file.state_dir)
        load_own_weights(own_weights_path(state_dir, run_id=run_id), network=network)
        expected = evaluate(network, [(session, None) for session in scans[site].test]).values()
        network.load(load_weights(tmp_path / "run"))
        assert score.psnr_db == pytest.approx(mean_over_subjects(expected)["psnr_db"], abs=1e-3)


def test_an_interrupted_run_with_a_prior_ends_with_the_same_weights(small_config: RunConfig, tmp_path: Path) -> None:
    config = load_config(None, overrides={}, assignments=["model.prior=cubic", "personal=head"], base=small_config)
    federate(config, tmp_path / "whole")
    with pytest.raises(RunError):  # calls 1 to 3 are the questions for statistics
        federate(config, tmp_path / "run", Saboteur(fail_at=5, error=DataError("gone")))
    federate(config, tmp_path / "run")
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_a_prior_that_cannot_be_saved_is_asked_for_again(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has room for a line and not for a model: the line would say that the prior is solved."""
    config = load_config(None, overrides={}, assignments=["model.prior=cubic", "rounds=1"], base=small_config)
    save, saved = checkpoint.save_checkpoint, []

    def full(run_dir: Path, **options: Any) -> None:
        saved.append(run_dir)
        if len(saved) == 2:
            raise RunError("The disk is full")
        save(run_dir, **options)

    monkeypatch.setattr(checkpoint, "save_checkpoint", full)
    with pytest.raises(RunError, match="disk is full"):
        federate(config, tmp_path / "run")
    assert events_of(tmp_path / "run", PriorSolved) == []
    federate(config, tmp_path / "run")
    assert [event.sites for event in events_of(tmp_path / "run", PriorSolved)] == [["Guys", "HH", "IOP"]]
    assert load_weights(tmp_path / "run")["prior.coefficients"].any()


def test_a_round_that_cannot_be_saved_is_done_and_noted_once(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save_checkpoint

    def full(run_dir: Path, *, round: int, **options: Any) -> None:
        if round == 2:
            raise RunError("The disk is full")
        save(run_dir, round=round, **options)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_checkpoint", full)
        with pytest.raises(RunError, match="disk is full"):
            federate(small_config, tmp_path / "run")
    federate(small_config, tmp_path / "run")
    noted = [[event.round for event in events_of(tmp_path / "run", kind)] for kind in (RoundFinished, ModelValidated)]
    assert noted == [[1, 2], [0, 1, 2]]


def test_a_site_that_tells_no_statistics_is_named_and_trains_on(small_config: RunConfig, tmp_path: Path) -> None:
    config = load_config(None, overrides={}, assignments=["model.prior=cubic"], base=small_config)
    federate(config, tmp_path / "run", Saboteur(fail_at=2, error=DataError("gone")))
    (solved,), (failed,) = (events_of(tmp_path / "run", kind) for kind in (PriorSolved, SiteFailed))
    assert isinstance(solved, PriorSolved)
    assert isinstance(failed, SiteFailed)
    assert (solved.sites, failed.site, failed.action) == (["Guys", "IOP"], "HH", "evaluate")
    assert [event.sites for event in events_of(tmp_path / "run", RoundFinished)] == [["Guys", "HH", "IOP"]] * 2


def test_one_site_equals_training_without_flower(small_config: RunConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(small_config, clients=1)
    site_paths = federate(config, tmp_path / "run")
    stored = run_folder.open_existing(tmp_path / "run")

    task = stored.task
    model = build_model(task.model, sources=2, seed=task.seed)
    training = open_site(site_paths["Guys"]).scans(task).training
    for round in (1, 2):
        train_round(model, training.draw, task=task, site="Guys", round=round)

    for name, array in load_weights(tmp_path / "run").items():
        np.testing.assert_allclose(array, model.state_dict()[name].numpy(), rtol=0, atol=1e-6)


def test_hospitals_that_do_not_train_are_tested_once(small_config: RunConfig, tmp_path: Path) -> None:
    evaluation = dataclasses.replace(small_config.evaluation, max_subjects=2)
    federate(dataclasses.replace(small_config, clients=2, evaluation=evaluation), tmp_path / "run")
    (tested,) = events_of(tmp_path / "run", ModelTested)
    assert set(tested.scores.sites) == {"Guys", "HH"}
    assert {site: score.subjects for site, score in tested.scores.unseen_sites.items()} == {"IOP": 2}


@pytest.mark.parametrize("fail_at", [2, 4, 6, 8])  # three sites: calls 1-3 are round 1, 4-6 round 2, then the test
def test_an_interrupted_run_ends_with_the_same_weights(small_config: RunConfig, tmp_path: Path, fail_at: int) -> None:
    federate(small_config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        federate(small_config, tmp_path / "broken", app=Saboteur(fail_at=fail_at, error=KeyboardInterrupt()))
    federate(small_config, tmp_path / "broken")
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")
    if fail_at > 3:  # a run stopped before its first checkpoint has said that it started
        assert kinds_of(tmp_path / "whole") == kinds_of(tmp_path / "broken")


def test_server_momentum_survives_resume(small_config: RunConfig, tmp_path: Path) -> None:
    momentum = dataclasses.replace(small_config.federation, server_momentum=0.9)
    config = dataclasses.replace(small_config, federation=momentum)
    federate(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        federate(config, tmp_path / "broken", app=Saboteur(fail_at=5, error=KeyboardInterrupt()))
    federate(config, tmp_path / "broken")
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")


def test_a_failing_site_is_named_and_the_state_kept(small_config: RunConfig, tmp_path: Path) -> None:
    app = Saboteur(fail_at=5, error=DataError("/data/patient-0042.nii.gz is gone"))
    with pytest.raises(RunError, match="2 of 3 sites"):
        federate(small_config, tmp_path / "run", app=app)
    assert load_last(tmp_path / "run")[0] == 1  # type: ignore[index]
    assert [(event.site, event.round) for event in events_of(tmp_path / "run", SiteFailed)] == [("HH", 2)]


def test_a_quorum_lets_the_others_go_on(small_config: RunConfig, tmp_path: Path) -> None:
    quorum = dataclasses.replace(small_config.federation, quorum=2)
    app = Saboteur(fail_at=5, error=DataError("gone"))
    federate(dataclasses.replace(small_config, federation=quorum), tmp_path / "run", app=app)
    took_part = [sorted(event.train_loss) for event in events_of(tmp_path / "run", RoundFinished)]
    assert took_part == [["Guys", "HH", "IOP"], ["Guys", "IOP"]]


class Listener(ClientApp):
    """The site's real app; notes the dtypes of the weights in each request and its reply."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: set[tuple[str, str, str]] = set()

    def __call__(self, message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        sent = message.content.array_records[ARRAYS]["float32"].dtype
        answered = reply.content.array_records[ARRAYS]["float32"].dtype if ARRAYS in reply.content else "none"
        self.heard.add((message.metadata.message_type, sent, answered))
        return reply


def test_float16_transport_rounds_what_travels_and_nothing_else(small_config: RunConfig, tmp_path: Path) -> None:
    half = dataclasses.replace(small_config.federation, transport="float16")
    listener = Listener()
    federate(small_config, tmp_path / "whole")
    federate(dataclasses.replace(small_config, federation=half), tmp_path / "half", app=listener)
    assert listener.heard == {("train", "float16", "float16"), ("evaluate", "float32", "none")}
    ours, exact, start = (
        load_weights(tmp_path / "half"),
        load_weights(tmp_path / "whole"),
        initial_weights(small_config),
    )
    assert {name: array.dtype for name, array in ours.items()} == {name: array.dtype for name, array in exact.items()}
    assert any((array.astype(np.float16) != array).any() for array in ours.values())  # a mean in more than halves
    moved, error = (
        sum(float(((exact[name] - other[name]) ** 2).sum()) ** 0.5 for name in exact) for other in (start, ours)
    )
    assert error < 0.2 * moved  # 0.06 when written: AdamW makes whole steps of gradients near zero


def test_no_exception_text_leaves_a_site(small_config: RunConfig, tmp_path: Path, ixi_dir: Path) -> None:
    """A site whose scans have vanished answers with a public sentence that names no path."""
    config, federation = find_sites(small_config)
    run_folder.create(tmp_path / "run", config)
    site_paths = write_sites(tmp_path / "run", config, federation)
    text = site_paths["HH"].read_text().replace(str(ixi_dir.resolve()), "/no/such/folder/secret")
    site_paths["HH"].write_text(text)
    node_configs = [{"site": site, "site-config": str(path)} for site, path in site_paths.items()]
    with pytest.raises(RunError):
        run_in_process(server_app, client_app, node_configs=node_configs, run_config={"run-dir": str(tmp_path / "run")})
    (failed,) = events_of(tmp_path / "run", SiteFailed)
    assert (failed.site, failed.reason) == ("HH", DataError.public)


def test_all_randomness_is_explicit(small_config: RunConfig, tmp_path: Path) -> None:
    torch.manual_seed(1)
    federate(small_config, tmp_path / "a")
    torch.manual_seed(2)
    torch.rand(7)
    federate(small_config, tmp_path / "b")
    assert_same_weights(tmp_path / "a", tmp_path / "b")
