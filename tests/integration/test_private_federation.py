"""Private training through the whole federation: what is spent, what leaves, what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import save

from agi_core.config.load import read_task, task_json
from agi_core.config.schema import Personal, PrivacyConfig, RunConfig, TrainingConfig
from agi_core.data.phantom.truth import read_anatomies
from agi_core.data.scans import Scans
from agi_core.errors import BudgetError, ConfigError, NotPrivateError, PolicyError, ProtocolError, RunError
from agi_core.keys import KeyTable
from agi_core.models.agi_net import build_model
from agi_core.network import Network
from agi_core.pretraining import PRETRAINING
from agi_core.privacy.accounting import Steps, epsilon
from agi_core.privacy.ledger import open_ledger
from agi_core.privacy.plan import plan_privacy
from agi_core.privacy.private_prior import planned_release
from agi_core.privacy.trainable import parameters_of
from agi_core.protocol import (
    ALL,
    EVALUATE,
    STATISTICS,
    TEST,
    TRAIN,
    VALIDATION,
    Reply,
    Request,
    Transport,
    pack,
    unpack,
)
from agi_core.report.report import build_report
from agi_core.ridge import Statistics
from agi_core.run import run_folder
from agi_core.run.checkpoint import load_weights
from agi_core.run.event_log import events_of
from agi_core.run.events import ModelTested, ModelValidated, PriorSolved, RoundFinished, SiteSatOut
from agi_core.run.initial_weights import initial_weights
from client.app import app as client_app
from client.site.file import Site, read_site, to_yaml
from client.site.opened import open_site
from client.work import networks, private_training, trainer
from server.app import app as server_app
from simulations import pretrained
from simulations.baselines import open_sites, without_privacy
from simulations.local_grid import run_in_process
from simulations.run import main
from simulations.sites import find_sites, write_sites
from tests.support.requests_by_hand import deployed_site
from tests.support.small_data import SMALL
from tests.support.small_federation import Saboteur, federate

SITES = ("Guys", "HH", "IOP")
TINY_PRETRAINING = dataclasses.replace(
    PRETRAINING,
    training=TrainingConfig(local_steps=2, batch_size=2),
    data=dataclasses.replace(PRETRAINING.data, phantom_sites="PublicA:1"),
)


@pytest.fixture
def private_config(small_config: RunConfig) -> RunConfig:
    privacy = dataclasses.replace(small_config.privacy, epsilon=8.0, trainable="all", slices_per_subject=2)
    return dataclasses.replace(small_config, privacy=privacy)


@pytest.fixture
def site_path(private_config: RunConfig, tmp_path: Path) -> Path:
    """One hospital that trains privately."""
    config, federation = find_sites(private_config)
    return write_sites(tmp_path / "run", config, federation)["Guys"]


def answer(site_path: Path, request: Request) -> Reply:
    return trainer.answer(open_site(site_path), request, read_task(request.task), device=torch.device("cpu"))


def request(config: RunConfig, action: str = TRAIN, *, round: int = 1, subjects: str = "", seed: int = 0) -> Request:
    task = config.task
    weights = pack(Network(dataclasses.replace(task, seed=seed)).weights)
    return Request(
        action=action,
        run_id="run",
        round=round,
        nonce="nonce",
        task=task_json(task),
        subjects=subjects,
        deadline_s=3600,
        weights=weights,
    )


def spent(run_dir: Path, site: str) -> list[Steps]:
    """Everything that counts at a site of this run."""
    scans = open_site(run_dir / "sites" / f"{site}.yaml").scans(run_folder.open_existing(run_dir).task)
    subjects = [subject.id for subject in scans.subjects.train]
    head_path = run_dir / "ledger_heads" / f"{site}.json"
    with open_ledger(run_dir / "ledgers" / f"{site}.jsonl", head_path=head_path, site=site) as ledger:
        return ledger.spent(subjects)


@pytest.mark.parametrize("transport", ["float32", "float16"])
def test_a_private_run_spends_its_budget_and_says_nothing_of_training(
    private_config: RunConfig, tmp_path: Path, transport: Transport
) -> None:
    run_dir = tmp_path / "run"
    federation = dataclasses.replace(private_config.federation, transport=transport)
    federate(dataclasses.replace(private_config, federation=federation), run_dir)
    for site in SITES:
        history = spent(run_dir, site)
        assert [steps.steps for steps in history] == [2, 2]  # two rounds of two steps
        assert 7.8 < epsilon(history, delta=1e-5) <= 8.0
    finished = events_of(run_dir, RoundFinished)
    assert [(event.train_loss, event.seconds) for event in finished] == [({}, {})] * 2
    assert all(event.sites == {} for event in events_of(run_dir, ModelValidated))
    (tested,) = events_of(run_dir, ModelTested)
    assert {site: score.subjects for site, score in tested.scores.sites.items()} == dict.fromkeys(SITES, 1)
    initial = build_model(private_config.model, sources=2, seed=private_config.seed).state_dict()
    trained = load_weights(run_dir)
    assert all(np.isfinite(array).all() for array in trained.values())
    changed = [(array != initial[name].numpy()).any() for name, array in trained.items()]
    # near 1, where a norm's weight starts, float16 loses what is below 0.0005
    assert any(changed) if transport == "float16" else all(changed)


def test_what_is_frozen_stays_bit_for_bit_whatever_travels(private_config: RunConfig, tmp_path: Path) -> None:
    """float16 rounds what sites send back, and a server's momentum would go on from there."""
    federation = dataclasses.replace(private_config.federation, transport="float16", server_momentum=0.9)
    privacy = dataclasses.replace(private_config.privacy, trainable="norms")
    config = dataclasses.replace(private_config, federation=federation, privacy=privacy)
    federate(config, tmp_path / "run")
    initial, trained = initial_weights(config), load_weights(tmp_path / "run")
    table = KeyTable.of(config, {name: array.ndim for name, array in initial.items()})
    assert len(table.frozen) > 5
    for name in table.frozen:
        np.testing.assert_array_equal(trained[name], initial[name])
    assert any((trained[name] != initial[name]).any() for name in table.shared)


@pytest.fixture
def with_public_prior(private_config: RunConfig, ixi_dir: Path, tmp_path: Path) -> RunConfig:
    """A private run from a model whose prior was solved on public data; here the data are those of one hospital."""
    model = dataclasses.replace(private_config.model, prior="cubic")
    config = dataclasses.replace(private_config, model=model, initial_weights=str(tmp_path / "public.safetensors"))
    network, scans = Network(config), open_site(deployed_site(tmp_path, ixi_dir, name="Public")).scans(config.task)
    public = Statistics.mean([*scans.prior_statistics.values()][:1])
    network.set_prior(public.solve(strength=1e-3), gram=public.gram)
    (tmp_path / "public.safetensors").write_bytes(save(network.weights))
    return config


def test_a_private_run_moves_a_public_prior_by_one_noisy_step_within_its_budget(
    with_public_prior: RunConfig, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    federate(with_public_prior, run_dir)
    (solved,) = events_of(run_dir, PriorSolved)
    assert solved.sites == [*SITES]
    release = planned_release(with_public_prior.privacy)
    for site in SITES:
        history = spent(run_dir, site)
        assert history[0] == release
        assert [steps.steps for steps in history[1:]] == [2, 2]
        assert 7.8 < epsilon(history, delta=1e-5) <= 8.0
    public, private = initial_weights(with_public_prior), load_weights(run_dir)
    assert np.isfinite(private["prior.coefficients"]).all()  # of so few subjects a step may be noise, and is not taken
    np.testing.assert_array_equal(public["prior.gram"], private["prior.gram"])


def test_a_private_run_without_a_public_prior_says_so(with_public_prior: RunConfig, tmp_path: Path) -> None:
    federate(dataclasses.replace(with_public_prior, initial_weights="random"), tmp_path / "run")
    (solved,) = events_of(tmp_path / "run", PriorSolved)
    assert solved.sites == []
    assert "hold no public prior" in solved.why
    assert not load_weights(tmp_path / "run")["prior.coefficients"].any()


@pytest.mark.parametrize("more", [0.0, 2.0])
def test_a_run_with_the_noise_of_its_plan_or_with_more_has_its_prior_and_all_its_rounds(
    with_public_prior: RunConfig, tmp_path: Path, more: float
) -> None:
    """Also where training has more noise than the prior's step."""
    sigma = more + plan_privacy(with_public_prior.task, subjects=3, target_epsilon=8.0).noise_multiplier
    privacy = dataclasses.replace(with_public_prior.privacy, noise_multiplier=sigma)
    federate(dataclasses.replace(with_public_prior, privacy=privacy), tmp_path / "run")
    (solved,) = events_of(tmp_path / "run", PriorSolved)
    assert solved.sites == [*SITES]
    assert [event.round for event in events_of(tmp_path / "run", RoundFinished)] == [1, 2]


def test_a_step_of_the_prior_is_told_once_and_only_from_a_public_one(
    with_public_prior: RunConfig, tmp_path: Path
) -> None:
    config, federation = find_sites(with_public_prior)
    run_folder.create(tmp_path / "run", config)
    site_path = write_sites(tmp_path / "run", config, federation)["Guys"]
    asked = request(config, EVALUATE, round=0, subjects=STATISTICS)
    with pytest.raises(ProtocolError, match="needs a model with a public one"):
        answer(site_path, asked)
    asked = dataclasses.replace(asked, weights=pack(initial_weights(config)))
    first, again = answer(site_path, asked), answer(site_path, dataclasses.replace(asked, nonce="another"))
    assert first.weights is not None
    assert again.weights is not None
    assert first.weights.manifest == '[["step","float64",[10]]]'
    assert first.num_examples == 3  # the public number
    np.testing.assert_array_equal(unpack(first.weights)["step"], unpack(again.weights)["step"])
    step = unpack(first.weights)["step"]  # all bits of a float64 would show which noise was drawn
    np.testing.assert_array_equal(step, step.astype(np.float32))
    assert len(spent(tmp_path / "run", "Guys")) == 1
    ordinary = dataclasses.replace(config, privacy=PrivacyConfig()).task
    with pytest.raises(PolicyError, match="statistics have no noise"):
        answer(site_path, dataclasses.replace(asked, task=task_json(ordinary)))


def test_a_training_reply_holds_weights_and_a_public_number(private_config: RunConfig, site_path: Path) -> None:
    reply = answer(site_path, request(private_config))
    assert reply.metrics == {}
    assert reply.num_examples == 3  # as the site file says, whatever the lots were
    assert answer(site_path, request(private_config, EVALUATE, subjects=VALIDATION)).metrics == {}
    assert answer(site_path, request(private_config, EVALUATE, subjects=TEST)).num_examples == 1
    with pytest.raises(PolicyError, match="tells of these"):
        answer(site_path, request(private_config, EVALUATE, subjects=ALL))


def test_a_repeated_request_gets_the_stored_reply(private_config: RunConfig, site_path: Path) -> None:
    """No new noise and no new spend; another request of the same round is new."""
    first = answer(site_path, request(private_config))
    again = answer(site_path, dataclasses.replace(request(private_config), nonce="another"))
    assert first.weights is not None
    assert again.weights is not None
    assert again.nonce == "another"
    for name, array in unpack(first.weights).items():
        np.testing.assert_array_equal(array, unpack(again.weights)[name])
    answer(site_path, request(private_config, seed=1))
    site = read_site(site_path)
    assert site.privacy is not None
    records = [json.loads(line) for line in Path(site.privacy.ledger).read_text().splitlines()]
    assert [r["kind"] for r in records] == ["opened", "subjects", "reserved", "committed", "reserved", "committed"]


@pytest.mark.parametrize("fail_at", [2, 5])
def test_an_interrupted_private_run_spends_no_more(private_config: RunConfig, tmp_path: Path, fail_at: int) -> None:
    """Sites that had answered give their stored replies; the budget, which is exact, suffices."""
    run_dir = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        federate(private_config, run_dir, app=Saboteur(fail_at=fail_at, error=KeyboardInterrupt()))
    federate(private_config, run_dir)
    for site in SITES:
        assert [steps.steps for steps in spent(run_dir, site)] == [2, 2]


def test_a_site_that_dies_while_it_trains_pays_for_the_round_again(
    private_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it died is known outside, so its steps count. The run's budget was exact: nothing is left for round 2."""
    run_dir, real = tmp_path / "run", private_training.train_round_privately
    calls = 0

    def dying(*arguments: object, **named: object) -> None:
        nonlocal calls
        calls += 1
        real(*arguments, **named)  # type: ignore[arg-type]
        if calls == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(private_training, "train_round_privately", dying)
    with pytest.raises(KeyboardInterrupt):
        federate(private_config, run_dir)
    assert [len(spent(run_dir, site)) for site in ("Guys", "HH")] == [1, 1]
    federate(private_config, run_dir)
    assert calls == 2 + 1 + 1 + 2  # Guys answered from its store, HH and IOP trained; HH sat out of round 2
    for site in SITES:
        assert [steps.steps for steps in spent(run_dir, site)] == [2, 2]
    assert [(e.site, e.round, e.reason) for e in events_of(run_dir, SiteSatOut)] == [("HH", 2, BudgetError.public)]
    assert [event.sites for event in events_of(run_dir, RoundFinished)] == [[*SITES], ["Guys", "IOP"]]


def test_a_failure_is_paid_for(private_config: RunConfig, site_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: a round is asked again and again, fails by the lot's will, and costs nothing."""

    def failing(*arguments: object, **named: object) -> None:
        raise RuntimeError

    site = read_site(site_path)
    assert site.privacy is not None
    privacy = dataclasses.replace(private_config.privacy, noise_multiplier=9.0)
    config = dataclasses.replace(private_config, privacy=privacy)
    with monkeypatch.context() as patched:
        patched.setattr(private_training, "train_round_privately", failing)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                answer(site_path, request(config))
    answer(site_path, request(config))
    records = [json.loads(line)["kind"] for line in Path(site.privacy.ledger).read_text().splitlines()]
    assert records == ["opened", "subjects", *["reserved"] * 4, "committed"]
    subjects = [subject.id for subject in open_site(site_path).scans(config.task).subjects.train]
    with open_ledger(Path(site.privacy.ledger), head_path=Path(site.privacy.ledger_head), site="Guys") as ledger:
        assert len(ledger.spent(subjects)) == len(ledger.spent_by("run")) == 4


def test_what_cannot_be_trained_fails_before_anything_is_spent(
    private_config: RunConfig, site_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever would have been in the lots: the gradients of nobody fail as well."""
    site = read_site(site_path)
    assert site.privacy is not None

    def failing(sources: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError

    network = networks.network_of(private_config.task, torch.device("cpu"), compiled=False)
    monkeypatch.setattr(network.module, "forward", failing)
    with pytest.raises(torch.OutOfMemoryError):
        answer(site_path, request(private_config))
    assert [json.loads(line)["kind"] for line in Path(site.privacy.ledger).read_text().splitlines()] == ["opened"]


def test_a_budget_that_is_too_small_is_refused_before_training(
    private_config: RunConfig, site_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **named: object) -> None:
        raise AssertionError("trained beyond the budget")

    monkeypatch.setattr(private_training, "train_round_privately", never)
    privacy = dataclasses.replace(private_config.privacy, noise_multiplier=0.5)
    config = dataclasses.replace(private_config, privacy=privacy)
    with pytest.raises(BudgetError, match="round 1 would bring epsilon"):
        answer(site_path, request(config))


def test_an_exhausted_site_is_named_with_a_public_sentence(private_config: RunConfig, tmp_path: Path) -> None:
    """Noise for one round and not for two: the second round is refused."""
    one = epsilon([Steps(2.0, 0.5, 2)], delta=1e-5)
    privacy = dataclasses.replace(private_config.privacy, epsilon=1.05 * one, noise_multiplier=2.0)
    with pytest.raises(RunError, match="round 2: 0 of 3 sites"):
        federate(dataclasses.replace(private_config, privacy=privacy), tmp_path / "run")
    out = events_of(tmp_path / "run", SiteSatOut)
    assert {(event.site, event.round, event.reason) for event in out} == {(s, 2, BudgetError.public) for s in SITES}


def test_a_site_that_sits_out_by_right_does_not_stop_the_run(private_config: RunConfig, tmp_path: Path) -> None:
    """Its policy allows less than the run spends; the default quorum is every site that does not sit out."""
    run_dir = tmp_path / "run"
    config, federation = find_sites(private_config)
    run_folder.create(run_dir, config)
    site_paths = write_sites(run_dir, config, federation)
    strict = read_site(site_paths["HH"])
    assert strict.privacy is not None
    privacy = dataclasses.replace(strict.privacy, epsilon=1.0)
    site_paths["HH"].write_text(to_yaml(dataclasses.replace(strict, privacy=privacy)))
    node_configs = [{"site": site, "site-config": str(path)} for site, path in site_paths.items()]
    run_in_process(server_app, client_app, node_configs=node_configs, run_config={"run-dir": str(run_dir)})
    out = [(event.site, event.round, event.action, event.reason) for event in events_of(run_dir, SiteSatOut)]
    assert out == [("HH", 1, "train", PolicyError.public)]
    assert [event.sites for event in events_of(run_dir, RoundFinished)] == [["Guys", "IOP"]] * 2
    assert "sits out of train from here on" in build_report(run_dir).read_text()


def test_privacy_is_not_switched_off_from_outside(
    small_config: RunConfig, private_config: RunConfig, site_path: Path
) -> None:
    with pytest.raises(PolicyError, match="trains privately only"):
        answer(site_path, request(small_config))
    loose = dataclasses.replace(private_config, privacy=dataclasses.replace(private_config.privacy, delta=0.4))
    with pytest.raises(PolicyError, match=r"privacy.delta: the request asks for 0.4, .* 1e-05 or less"):
        answer(site_path, request(loose))
    site: Site = dataclasses.replace(read_site(site_path), privacy=None)
    elsewhere = site_path.with_name("other.yaml")
    elsewhere.write_text(to_yaml(site))
    with pytest.raises(NotPrivateError, match="no section privacy"):
        answer(elsewhere, request(private_config))
    with pytest.raises(NotPrivateError, match="no section privacy"):
        answer(elsewhere, request(private_config, EVALUATE, round=0, subjects=STATISTICS))


def test_the_command_prints_what_was_spent(
    ixi_dir: Path,
    cache_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And starts from weights that were pre-trained on public data, of which it moves only the part to be trained."""
    run_dir = tmp_path / "run"
    command = ["--data", str(ixi_dir), "--out", str(run_dir), "--clients", "2", f"data.cache_dir={cache_dir}", *SMALL]
    command += ["--dp", "epsilon=8", "--dp", "slices_per_subject=2", "personal=head"]
    monkeypatch.chdir(tmp_path)  # where `.cache` is made
    monkeypatch.setattr(pretrained, "PRETRAINING", TINY_PRETRAINING)
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    summary = json.loads((run_dir / "summary.json").read_text())
    assert set(summary["privacy"]) == {"Guys", "HH"}
    for site, row in summary["privacy"].items():
        assert 7.8 < row["epsilon"] <= 8.0 < row["epsilon_rdp"]
        assert f"{site} {row['epsilon']:.2f}" in printed
    assert "RDP" not in printed  # a looser bound of the same, above the budget; the report has it
    assert "trained privately, so the sites tell no figures" in printed
    assert "no figure of training or validation subjects leaves a site" in (run_dir / "report.html").read_text()

    assert "pre-training without privacy on public synthetic data: 2 steps of 2 crops" in printed
    config = run_folder.open_existing(run_dir)
    start = initial_weights(config)
    (file,) = (tmp_path / ".cache").glob("pretrained-*.safetensors")
    assert config.initial_weights == str(file)
    assert f"starts from {file.name}" in printed
    assert summary["baselines"]["initial_weights"]["final"]["psnr_db"] > 0
    cost = summary["baselines"]["without_privacy"]["final"]["psnr_db"] - summary["final"]["psnr_db"]
    assert f"global of the same federation without privacy: {cost:+z.2f} dB" in printed
    personal, free = summary["personal"]["final"], summary["baselines"]["public_own_last_layer"]["final"]
    assert f"personal {personal['psnr_db']:.2f} dB:" in printed
    free_db = personal["psnr_db"] - free["psnr_db"]
    assert f"{free_db:+z.2f} dB against an own last layer on the public start, which spends no epsilon" in printed
    assert "public start, own last layer" in (run_dir / "report.html").read_text()
    assert "federated without privacy" in (run_dir / "report.html").read_text()
    model = build_model(config.model, sources=2)
    moved = {name for name, array in load_weights(run_dir).items() if (array != start[name]).any()}
    assert moved == set(parameters_of("norms", model))

    again = ["--out", str(tmp_path / "again"), *(part for part in command if part != "--out" and part != str(run_dir))]
    assert main([*again, "personal=none"]) == 0
    assert "pre-training" not in capsys.readouterr().out
    assert "personal" not in json.loads((tmp_path / "again" / "summary.json").read_text())

    file.unlink()  # the run keeps a copy, and `public` still names it
    assert main([*command, "initial_weights=public", "--resume", "--compare"]) == 0
    added = json.loads((run_dir / "summary.json").read_text())["baselines"]
    assert added["initial_weights"] == summary["baselines"]["initial_weights"]
    assert added["local_only"]["sites"].keys() == {"Guys", "HH"}


def test_a_run_without_privacy_may_start_from_public_data_too(
    private_config: RunConfig, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "PRETRAINING", TINY_PRETRAINING)
    config = dataclasses.replace(private_config, privacy=PrivacyConfig(), initial_weights="public")
    started = pretrained.with_pretrained_weights(config, tmp_path, Console(quiet=True))
    (file,) = tmp_path.glob("pretrained-*.safetensors")
    assert started.initial_weights == str(file)


def test_an_anatomy_that_is_held_back_is_not_pretrained_on_either(
    private_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RunConfig] = []
    three = dataclasses.replace(PRETRAINING.data, phantom_sites="PublicA:3")
    monkeypatch.setattr(pretrained, "PRETRAINING", dataclasses.replace(TINY_PRETRAINING, data=three))
    monkeypatch.setattr(pretrained, "pretrain", lambda config, path, *, device: asked.append(config))
    files = [
        pretrained.with_pretrained_weights(
            dataclasses.replace(private_config, data=data), tmp_path, Console(quiet=True)
        )
        for data in (private_config.data, dataclasses.replace(private_config.data, unseen_anatomy="ms07"))
    ]
    assert files[0].initial_weights != files[1].initial_weights
    having = {subject for subject, its in read_anatomies(Scans.of(asked[1].data)).items() if its == "ms07"}
    assert [{*config.data.exclude} for config in asked] == [set(), having]
    assert having


@pytest.mark.parametrize(("prior", "personal"), [("none", "none"), ("cubic", "none"), ("cubic", "head")])
def test_a_run_is_compared_with_the_same_federation_without_privacy(
    private_config: RunConfig, tmp_path: Path, prior: str, personal: Personal
) -> None:
    """Which a federation without privacy is the oracle of: one step at each site, for at most 6 crops in lots of 8."""
    training = dataclasses.replace(private_config.training, batch_size=8)
    model = dataclasses.replace(private_config.model, prior=prior)
    config = dataclasses.replace(private_config, training=training, model=model, personal=personal)
    plain = dataclasses.replace(training, local_steps=1, learning_rate=config.privacy.learning_rate)
    federate(dataclasses.replace(config, training=plain, privacy=PrivacyConfig()), tmp_path / "plain")
    (tested,) = events_of(tmp_path / "plain", ModelTested)
    config, federation = find_sites(config)
    scores = without_privacy(config, open_sites(config, write_sites(tmp_path / "run", config, federation)))
    assert scores.final["psnr_db"] == pytest.approx(tested.scores.final["psnr_db"], abs=2e-5)
    assert scores.sites.keys() == tested.scores.sites.keys()


def test_pretraining_can_be_left_out_and_is_refused_where_there_is_no_built_in_data(
    private_config: RunConfig, tmp_path: Path
) -> None:
    console = Console(quiet=True)
    for config in (
        dataclasses.replace(private_config, initial_weights="random"),
        dataclasses.replace(private_config, privacy=PrivacyConfig()),
    ):
        assert pretrained.with_pretrained_weights(config, tmp_path, console) == config
    bids = dataclasses.replace(private_config, data=dataclasses.replace(private_config.data, layout="bids"))
    with pytest.raises(ConfigError, match=r"initial_weights=FILE .* or initial_weights=random"):
        pretrained.with_pretrained_weights(bids, tmp_path, console)
    assert not list(tmp_path.iterdir())
