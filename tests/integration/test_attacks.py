"""Hostile sites through the whole federation: what is refused, cut down, struck, shut out and rolled back."""

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.errors import DataError, RunError
from agi_core.models.prior import monomials
from agi_core.protocol import ARRAYS, EVALUATE, LAYER_STATISTICS, METRICS, SCALARS, STATISTICS, TRAIN, VALIDATION
from agi_core.report.report import build_report
from agi_core.ridge import Statistics
from agi_core.run import run_folder
from agi_core.run.checkpoint import WEIGHTS, load_round, load_weights, load_with_trained_layer, untested_best
from agi_core.run.event_log import events_of
from agi_core.run.events import (
    LastLayerSolved,
    ModelRolledBack,
    ModelTested,
    ModelValidated,
    PriorSolved,
    RoundFinished,
    SiteQuarantined,
    UpdateClipped,
    UpdateRefused,
)
from client.app import app as client_app
from server import strikes
from server.app import app as server_app
from simulations.local_grid import LocalGrid
from simulations.sites import find_sites, write_sites
from tests.support.small_federation import assert_same_weights, federate
from tests.support.unsteady_grid import deploy

Change = Callable[[RecordDict, RecordDict], None]  # (request, reply to change)


class Hostile(ClientApp):
    """The sites' real app, but the training replies of some sites, or those of another action, are tampered with."""

    def __init__(
        self,
        change: Change,
        *,
        sites: Iterable[str] = ("HH",),
        rounds: Iterable[int] = range(100),
        action: str = TRAIN,
    ) -> None:
        super().__init__()
        self.change, self.sites, self.rounds, self.action, self.asked = change, {*sites}, {*rounds}, action, 0

    def __call__(self, message: Message, context: Context) -> Message:
        hostile = context.node_config["site"] in self.sites
        self.asked += hostile
        request = copy.deepcopy(message.content)
        reply = client_app(message, context)
        round = request.config_records[SCALARS]["round"]
        if hostile and round in self.rounds and message.metadata.message_type == self.action:
            self.change(request, reply.content)
        return reply


class Failing(ClientApp):
    """The sites' real app, but one site never answers a training request."""

    def __call__(self, message: Message, context: Context) -> Message:
        if context.node_config["site"] == "HH" and message.metadata.message_type == TRAIN:
            raise DataError("away")
        return client_app(message, context)


def weights(change: Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Change:
    """The flat array of all weights, as a function of what was sent and what was trained."""

    def tamper(request: RecordDict, reply: RecordDict) -> None:
        sent, trained = (records.array_records[ARRAYS]["float32"].numpy() for records in (request, reply))
        changed = change(sent, trained)
        reply[ARRAYS] = ArrayRecord({str(changed.dtype): Array(changed)})

    return tamper


def scalars(**values: Any) -> Change:
    def tamper(request: RecordDict, reply: RecordDict) -> None:
        reply[SCALARS] = ConfigRecord({**reply.config_records[SCALARS], **values})

    return tamper


def figures(**values: float) -> Change:
    def tamper(request: RecordDict, reply: RecordDict) -> None:
        reply[METRICS] = MetricRecord({**reply.metric_records[METRICS], **values})

    return tamper


def manifest(change: Callable[[list[Any]], object]) -> Change:
    """The list of names, dtypes and shapes; the values are left as they are."""

    def tamper(request: RecordDict, reply: RecordDict) -> None:
        rows = json.loads(str(reply.config_records[SCALARS]["manifest"]))
        change(rows)
        scalars(manifest=json.dumps(rows, separators=(",", ":")))(request, reply)

    return tamper


def with_first(value: float) -> Change:
    return weights(lambda sent, trained: np.concatenate([np.float32([value]), trained[1:]]))


def no_numpy(request: RecordDict, reply: RecordDict) -> None:
    reply[ARRAYS] = ArrayRecord({"float32": Array("float32", (1,), "numpy.ndarray", b"\x93NUMPY but not quite")})


ATTACKS: dict[str, Change] = {
    "NaN": with_first(np.nan),
    "infinity": with_first(np.inf),
    "minus infinity": with_first(-np.inf),
    "a million times": weights(lambda sent, trained: sent + np.float32(1e6) * (trained - sent)),
    "float64": weights(lambda sent, trained: trained.astype(np.float64)),
    "float16": weights(lambda sent, trained: trained.astype(np.float16)),
    "too short": weights(lambda sent, trained: trained[:-1]),
    "one value": weights(lambda sent, trained: trained[:1]),
    "two axes": weights(lambda sent, trained: trained[None]),
    "no array": no_numpy,
    "missing tensor": manifest(lambda rows: rows.pop()),
    "extra tensor": manifest(lambda rows: rows.append(["extra", "float32", [1]])),
    "shape (1,)": manifest(lambda rows: rows[0].__setitem__(2, [1])),
    "another name": manifest(lambda rows: rows[0].__setitem__(0, "x")),
    "weight -5": scalars(num_examples=-5),
    "weight 0": scalars(num_examples=0),
    "weight 1e9": scalars(num_examples=10**9),
    "weight NaN": scalars(num_examples=float("nan")),
    "no steps": scalars(steps=0),
    "stale round": scalars(round=0),
    "another run": scalars(run_id="another"),
    "stale nonce": scalars(nonce="0" * 32),
    "unknown field": scalars(command="rm"),
    "unknown figure": figures(age=70.0),
    "absurd figure": figures(validation_psnr_db=1e308),
    "figure NaN": figures(train_loss=float("nan")),
    "validated on 1e9 subjects": figures(validation_subjects=10**9),
}


@pytest.fixture
def config(small_config: RunConfig) -> RunConfig:
    """One round that two of three sites are enough for."""
    quorum = dataclasses.replace(small_config.federation, quorum=2)
    return dataclasses.replace(small_config, rounds=1, federation=quorum)


def test_every_attack_is_refused_and_changes_nothing(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One attack per round. The weights are those of a run in which the hostile site stayed away."""
    monkeypatch.setattr(strikes, "QUARANTINED_AT", 1000)

    def attack(request: RecordDict, reply: RecordDict) -> None:
        round = request.config_records[SCALARS]["round"]
        [*ATTACKS.values()][int(str(round)) - 1](request, reply)

    training = dataclasses.replace(config.training, local_steps=1, batch_size=1)
    config = dataclasses.replace(config, rounds=len(ATTACKS), training=training)
    federate(config, tmp_path / "without", app=Failing())
    federate(config, tmp_path / "run", app=Hostile(attack))
    refused = {event.round: event for event in events_of(tmp_path / "run", UpdateRefused)}
    assert {name for round, name in enumerate(ATTACKS, start=1) if round not in refused} == set()
    assert {event.site for event in refused.values()} == {"HH"}
    assert refused[len(ATTACKS)].strikes == len(ATTACKS)
    assert all(event.sites == ["Guys", "IOP"] for event in events_of(tmp_path / "run", RoundFinished))
    assert_same_weights(tmp_path / "without", tmp_path / "run")


def test_replies_that_come_twice_count_once(config: RunConfig, tmp_path: Path) -> None:
    class Doubling(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            messages = [*super().pull_messages(message_ids)]
            return [*messages, *messages]

    federate(config, tmp_path / "once")
    found, federation = find_sites(config)
    run_folder.create(tmp_path / "twice", found)
    site_paths = write_sites(tmp_path / "twice", found, federation)
    grid = Doubling(client_app, [{"site": site, "site-config": str(path)} for site, path in site_paths.items()])
    server_app(grid, Context(1, 1, {}, RecordDict(), {"run-dir": str(tmp_path / "twice")}))
    assert_same_weights(tmp_path / "once", tmp_path / "twice")


FLIPPED = weights(lambda sent, trained: sent - np.float32(10) * (trained - sent))


@pytest.mark.parametrize("aggregation", ["mean", "trimmed_mean", "median"])
def test_a_flipped_sign_is_cut_down_and_no_strike(config: RunConfig, tmp_path: Path, aggregation: Any) -> None:
    federation = dataclasses.replace(config.federation, aggregation=aggregation, quorum=3)
    federate(dataclasses.replace(config, federation=federation), tmp_path / "run", app=Hostile(FLIPPED))
    (clipped,) = events_of(tmp_path / "run", UpdateClipped)
    assert clipped.site == "HH"
    assert not events_of(tmp_path / "run", UpdateRefused)
    assert not (tmp_path / "run" / strikes.FILE).exists()


def test_three_strikes_shut_a_site_out_until_it_is_released(config: RunConfig, tmp_path: Path) -> None:
    run_dir, app = tmp_path / "run", Hostile(with_first(np.nan))
    federate(dataclasses.replace(config, rounds=5), run_dir, app=app)
    assert [(event.round, event.strikes) for event in events_of(run_dir, UpdateRefused)] == [(1, 1), (2, 2), (3, 3)]
    assert [(event.site, event.round) for event in events_of(run_dir, SiteQuarantined)] == [("HH", 3)]
    assert app.asked == 3  # not for rounds 4 and 5, nor for figures
    (tested,) = events_of(run_dir, ModelTested)
    assert [*tested.scores.sites] == ["Guys", "IOP"]
    assert "in quarantine from here on" in build_report(run_dir).read_text()

    strikes.release(run_dir / strikes.FILE, "HH")
    assert strikes.quarantined(run_dir / strikes.FILE) == []


def test_quarantine_below_the_quorum_pauses_and_says_what_to_do(small_config: RunConfig, tmp_path: Path) -> None:
    """Every training site is needed: the run pauses at each refused reply, and nobody is asked once the site is out."""
    run_dir, app = tmp_path / "run", Hostile(with_first(np.nan))
    for _ in range(3):
        with pytest.raises(RunError, match=r"2 of 3 sites .* HH was refused: .* lower --quorum"):
            deploy(small_config, run_dir, app)
    asked = app.asked
    with pytest.raises(RunError, match=r"HH is in quarantine .* python -m server release HH"):
        deploy(small_config, run_dir, app)
    assert app.asked == asked == 3

    strikes.release(run_dir / strikes.FILE, "HH")
    federate(small_config, tmp_path / "whole")
    deploy(small_config, run_dir)
    assert_same_weights(tmp_path / "whole", run_dir)


def tiny_squares(request: RecordDict, reply: RecordDict) -> None:
    """Statistics whose mean squares are so small that mean products, scaled by them, are infinite."""
    if request.config_records[SCALARS]["subjects"] == STATISTICS:
        told = np.diag(np.repeat([1, 1e-320, 1], [1, 3, 6]))
        told[1, 2] = told[2, 1] = told[2, 3] = told[3, 2] = 1
        (numbers,) = Statistics(told, np.zeros(10)).arrays().values()
        reply[ARRAYS] = ArrayRecord({"float64": Array(numbers)})


def test_statistics_that_no_voxels_have_are_refused_by_name(config: RunConfig, tmp_path: Path) -> None:
    config = load_config(None, overrides={}, assignments=["model.prior=cubic"], base=config)
    federate(config, tmp_path / "run", app=Hostile(tiny_squares, rounds=[0], action=EVALUATE))
    (refused,) = events_of(tmp_path / "run", UpdateRefused)
    assert (refused.site, refused.reason) == ("HH", "the statistics cannot be means over voxels")
    (solved,) = events_of(tmp_path / "run", PriorSolved)
    assert [*solved.sites] == ["Guys", "IOP"]


def bright_and_black(request: RecordDict, reply: RecordDict) -> None:
    """Statistics of voxels that outweigh those of heads: sources of any brightness, and a target of 0."""
    if request.config_records[SCALARS]["subjects"] == STATISTICS:
        sources = torch.from_numpy(np.random.default_rng(0).random((1, 2, 100, 100)))
        features = monomials(sources)[0].flatten(1).numpy()
        (numbers,) = Statistics(features @ features.T / 10**4, np.zeros(10)).arrays().values()
        reply[ARRAYS] = ArrayRecord({"float64": Array(numbers)})


def test_statistics_of_one_site_do_not_decide_the_prior_of_a_robust_rule(config: RunConfig, tmp_path: Path) -> None:
    first_db = {}
    for rule in ("mean", "median"):
        settings = ["model.prior=cubic", f"federation.aggregation={rule}", "federation.quorum=3"]
        settings += ["training.local_steps=1"]
        of_rule = load_config(None, overrides={}, assignments=settings, base=config)
        for name, app in (("clean", client_app), ("hostile", Hostile(bright_and_black, rounds=[0], action=EVALUATE))):
            federate(of_rule, tmp_path / rule / name, app=app)
            assert not events_of(tmp_path / rule / name, UpdateRefused)
            (validated, *_) = events_of(tmp_path / rule / name, ModelValidated)
            first_db[rule, name] = validated.mean["psnr_db"]
    assert first_db["mean", "hostile"] < first_db["mean", "clean"] - 3
    assert first_db["median", "hostile"] > first_db["median", "clean"] - 1.5


def worse(request: RecordDict, reply: RecordDict) -> None:
    psnr_db = float(str(reply.metric_records[METRICS]["validation_psnr_db"]))
    figures(validation_psnr_db=psnr_db - 5)(request, reply)


@pytest.mark.parametrize(("sites", "back"), [(("HH",), False), (("Guys", "HH"), True)])
def test_a_model_that_a_majority_reports_worse_is_rolled_back(
    small_config: RunConfig, tmp_path: Path, sites: tuple[str, ...], back: bool
) -> None:
    run_dir, three = tmp_path / "run", dataclasses.replace(small_config, rounds=3)
    federate(three, run_dir, app=Hostile(worse, sites=sites, rounds=[3]))
    rolled = [(event.round, event.to, event.sites) for event in events_of(run_dir, ModelRolledBack)]
    assert rolled == ([(2, 1, [*sites])] if back else [])
    kept = [load_round(run_dir, round)[0] for round in (2, 3)]
    if back:
        assert "back to the one after round 1" in build_report(run_dir).read_text()
        assert (run_dir / "checkpoints" / "state-00001.json").is_file()
        best, _ = load_round(run_dir, 1)
        for name, array in best.items():
            np.testing.assert_array_equal(array, kept[1][name])
    assert any((kept[0][name] != array).any() for name, array in kept[1].items())


def test_statistics_of_a_liar_for_the_last_layer_are_seen_in_validation(config: RunConfig, tmp_path: Path) -> None:
    """They are of a target that is the true one's opposite, which no rule of what is possible tells from a true one."""

    def opposite(request: RecordDict, reply: RecordDict) -> None:
        if request.config_records[SCALARS]["subjects"] == LAYER_STATISTICS:
            numbers = reply.array_records[ARRAYS]["float64"].numpy().copy()
            features = math.isqrt(2 * numbers.size)
            numbers[-features + 1 :] *= -1
            reply[ARRAYS] = ArrayRecord({"float64": Array(numbers)})

    closed = load_config(None, overrides={}, assignments=["model.prior=cubic", "personal=head"], base=config)
    for name, app in (("clean", client_app), ("hostile", Hostile(opposite, action=EVALUATE))):
        federate(closed, tmp_path / name, app=app)
        assert not events_of(tmp_path / name, UpdateRefused)
    (clean,), (hostile,) = (events_of(tmp_path / name, LastLayerSolved) for name in ("clean", "hostile"))
    assert clean.why == ""
    assert hostile.sites == ["Guys", "HH", "IOP"]
    assert "the solved one is worse in validation" in hostile.why
    trained = load_with_trained_layer(tmp_path / "clean")
    for name, array in load_weights(tmp_path / "hostile").items():
        np.testing.assert_array_equal(array, trained[name])


def test_a_run_that_went_back_to_its_best_solves_that_ones_layer(small_config: RunConfig, tmp_path: Path) -> None:
    told: list[str] = []

    def worse_once(request: RecordDict, reply: RecordDict) -> None:
        """The last round's model, not the solved one."""
        scalars = request.config_records[SCALARS]
        if scalars["subjects"] == VALIDATION and len(told) < 3:
            told.append("")
            worse(request, reply)

    settings = ["model.prior=cubic", "personal=head", "rounds=1"]
    closed = load_config(None, overrides={}, assignments=settings, base=small_config)
    app = Hostile(worse_once, sites=("Guys", "HH", "IOP"), action=EVALUATE)
    federate(closed, run_dir := tmp_path / "run", app=app)
    ((round, to),) = [(event.round, event.to) for event in events_of(run_dir, ModelRolledBack)]
    (solved,) = events_of(run_dir, LastLayerSolved)
    assert (round, to, solved.why) == (1, 0, "")
    before, trained = load_round(run_dir, to)[0], load_with_trained_layer(run_dir)
    for name, array in trained.items():
        np.testing.assert_array_equal(array, before[f"{WEIGHTS}{name}"])
    assert untested_best(run_dir) is None  # it was tested, with its new layer
    for name, array in load_weights(run_dir, best=True).items():
        np.testing.assert_array_equal(array, load_weights(run_dir)[name])
    page = build_report(run_dir).read_text()
    assert f"after round {to}. The test figures above are those of the model after round {to}." in page


def restricted(config: RunConfig, run_dir: Path, *, sites: Iterable[str]) -> None:
    """Deploy with sites whose policy lets no figures of so few subjects leave."""
    found, federation = find_sites(config)
    original = write_sites(run_dir.parent / "files", found, federation)
    run_folder.create(run_dir, found)
    for site, path in original.items():
        least = 10 if site in sites else 1
        path.write_text(path.read_text().replace("minimum_subjects: 1\n", f"minimum_subjects: {least}\n"))
    node_configs = [{"site": site, "site-config": str(path)} for site, path in original.items()]
    server_app(LocalGrid(client_app, node_configs), Context(1, 1, {}, RecordDict(), {"run-dir": str(run_dir)}))


@pytest.mark.parametrize("sites", [("HH",), ("Guys", "HH", "IOP")])
def test_figures_that_are_held_back_are_shown_as_suppressed(
    small_config: RunConfig, tmp_path: Path, sites: tuple[str, ...]
) -> None:
    run_dir = tmp_path / "run"
    restricted(small_config, run_dir, sites=sites)
    told = [site for site in ("Guys", "HH", "IOP") if site not in sites]
    for event in events_of(run_dir, ModelValidated):
        assert [*event.sites] == told
        assert event.suppressed == [*sites]
    (tested,) = events_of(run_dir, ModelTested)
    assert ([*tested.scores.sites], tested.suppressed, bool(tested.scores.final)) == (told, [*sites], bool(told))
    page = build_report(run_dir).read_text()
    assert page.count(">suppressed</td>") == len(sites)
    assert ("Its test figures are suppressed" in page) == (not told)
