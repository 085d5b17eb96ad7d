"""What the gate lets through: every attack of the threat model, and fifty rounds of honest sites."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.errors import ProtocolError
from agi_core.privacy.noise import NoiseSource
from agi_core.privacy.patient_sgd import Mechanism, private_step
from agi_core.protocol import Reply, Request, Weights, pack, read_reply, reply_scalars, unpack
from agi_core.schedule import learning_rate
from server.aggregation import SiteUpdate
from server.update_gate import (
    Verdict,
    check_answer,
    judge_updates,
    noise_norm,
    norm_limit,
    read_update,
)

SIZES = {"A": 24, "B": 14, "C": 6}
SENT: Weights = {"b": np.zeros(20, np.float32), "w": np.ones((20, 20), np.float32)}
REQUEST = Request(
    action="train", run_id="run", round=2, nonce="nonce", task="{}", subjects="", deadline_s=60, weights=pack(SENT)
)
REPLY = Reply(
    run_id="run",
    round=2,
    nonce="nonce",
    num_examples=5,
    metrics={"train_loss": 0.5, "seconds": 2.0},
    weights=pack(SENT),
    steps=8,
)


def config_of(*settings: str, **overrides: Any) -> RunConfig:
    overrides = {"federation.sites": [*SIZES], "federation.subjects": SIZES, **overrides}
    return load_config(None, overrides=overrides, assignments=["training.local_steps=8", "rounds=50", *settings])


def moved(change: float, *, steps: int = 8, seed: int = 0, examples: int = 5) -> Reply:
    """A reply whose weights have moved by this norm in a random direction."""
    rng = np.random.default_rng(seed)
    direction = {name: rng.normal(size=array.shape) for name, array in SENT.items()}
    norm = math.sqrt(sum(float((d**2).sum()) for d in direction.values()))
    weights = {n: (SENT[n] + change / norm * d).astype(np.float32) for n, d in direction.items()}
    return dataclasses.replace(REPLY, weights=pack(weights), steps=steps, num_examples=examples)


def change_of(update: SiteUpdate) -> float:
    return math.sqrt(sum(float(((update.values(n) - SENT[n].ravel()) ** 2).sum()) for n in SENT))


def judge(replies: dict[str, Reply], config: RunConfig | None = None) -> Verdict[SiteUpdate]:
    return judge_updates(replies, REQUEST, config=config or config_of())


# FORM


def test_an_honest_reply_is_accepted_as_it_is() -> None:
    verdict = judge({"A": REPLY})
    assert (verdict.accepted["A"].site, verdict.accepted["A"].num_examples) == ("A", 5)
    np.testing.assert_array_equal(verdict.accepted["A"].weights["w"], SENT["w"])
    assert not verdict.clipped
    assert not verdict.refused


def spoilt(value: float) -> dict[str, Any]:
    return {"weights": pack({**SENT, "b": np.array([value, *[0] * 19], np.float32)})}


@pytest.mark.parametrize(
    "change",
    [
        {"num_examples": 0},
        {"num_examples": -5},
        {"steps": 0},
        {"steps": -1},
        {"steps": 9},
        {"weights": None},
        {"weights": pack({**SENT, "b": np.ones(1, np.float32)})},  # would broadcast
        {"weights": pack({**SENT, "w": np.ones((400,), np.float32)})},
        {"weights": pack({"w": SENT["w"]})},
        {"weights": pack({**SENT, "extra": np.zeros(1, np.float32)})},
        {"weights": pack({"B": SENT["b"], "w": SENT["w"]})},
        {"weights": pack({name: array.astype(np.float64) for name, array in SENT.items()})},
        {"weights": pack({name: array.astype(np.float16) for name, array in SENT.items()})},
        {"weights": pack({name: array.astype(np.int32) for name, array in SENT.items()})},
        {"weights": dataclasses.replace(pack(SENT), arrays={"float32": np.ones(419, np.float32)})},
        {"weights": dataclasses.replace(pack(SENT), arrays={"float32": np.ones((420, 1), np.float32)})},
        {"weights": dataclasses.replace(pack(SENT), arrays={"float32": np.ones(420)})},
        {"weights": dataclasses.replace(pack(SENT), arrays={"float32": np.array([None] * 420)})},
        spoilt(np.nan),
        spoilt(np.inf),
        spoilt(-np.inf),
    ],
)
def test_anything_else_is_refused_and_the_others_are_used(change: dict[str, Any]) -> None:
    attack = dataclasses.replace(REPLY, **change)
    with pytest.raises(ProtocolError):
        read_update(attack, REQUEST, "A", sent=unpack(REQUEST.weights), task=config_of().task)
    verdict = judge({"A": attack, "B": moved(0.01), "C": moved(0.01, seed=1)})
    assert list(verdict.refused) == ["A"]
    assert list(verdict.accepted) == ["B", "C"]


def test_what_the_run_keeps_is_not_changed_by_a_reply() -> None:
    """In a private run of norms and biases the matrix stays bit for bit."""
    private = config_of("privacy.epsilon=8", "privacy.noise_multiplier=1")
    bias = dataclasses.replace(REPLY, weights=pack({**SENT, "b": np.full(20, 1e-4, np.float32)}))
    matrix = SENT["w"].copy()
    matrix[3, 4] = np.nextafter(matrix[3, 4], 2)
    both = dataclasses.replace(REPLY, weights=pack({"b": SENT["b"], "w": matrix}))
    verdict = judge({"A": bias, "B": both}, private)
    assert [*verdict.accepted] == ["A"]
    assert verdict.refused == {"B": "the reply changes w, which this run keeps as it is"}
    assert not judge({"B": both}).refused  # where all weights are trained


@pytest.mark.parametrize("change", [{"run_id": "another"}, {"round": 1}, {"nonce": "stale"}])
def test_an_answer_to_another_request_is_refused(change: dict[str, Any]) -> None:
    check_answer(REPLY, REQUEST, registered=5)
    with pytest.raises(ProtocolError, match="is not that of the request"):
        check_answer(dataclasses.replace(REPLY, **change), REQUEST, registered=5)


@pytest.mark.parametrize(
    "metrics",
    [
        {"validation_psnr_db": 1e308},
        {"validation_psnr_db": 1e9},  # once, and round 0 is the best for ever
        {"psnr_db": 100.1},
        {"psnr_db_foreground": -0.1},
        {"validation_ssim": 1.01},
        {"mae_foreground": 1.01},
        {"nmse": -1.0},
        {"seconds": -1e10},
        {"train_loss": -1e9},
        {"rms_error": 1.01},
        {"rms_disagreement": -0.1},
        {"personal_psnr_db": 1e8},
        {"psnr_db_tumour": -1e8},
        {"brasyn_ssim_healthy": 1.01},
        {"lesion_dice_WT_floor": 1.01},
        {"lesion_hd95_mm_ET_synthetic": -0.1},
        {"age": 70.0},
        {"\x1b[2J": 1.0},
    ],
)
def test_figures_that_cannot_be_are_refused(metrics: dict[str, float]) -> None:
    with pytest.raises(ProtocolError, match=r"the reply('s| tells)"):
        check_answer(dataclasses.replace(REPLY, metrics=metrics), REQUEST, registered=24)


@pytest.mark.parametrize("count", [-5, 25, 10**9])
def test_no_reply_counts_more_subjects_than_are_registered(count: int) -> None:
    with pytest.raises(ProtocolError, match=r"counts .* subjects, 24 are registered"):
        check_answer(dataclasses.replace(REPLY, num_examples=count), REQUEST, registered=24)
    metrics = {"validation_subjects": float(count)}
    with pytest.raises(ProtocolError, match=r"validation.subjects"):
        check_answer(dataclasses.replace(REPLY, metrics=metrics), REQUEST, registered=24)


@pytest.mark.parametrize("count", [math.nan, math.inf, 5.0, "5", True])
def test_a_weight_that_is_no_whole_number_is_refused_on_arrival(count: Any) -> None:
    scalars = {**reply_scalars(REPLY), "num_examples": count}
    with pytest.raises(ProtocolError, match="num_examples"):
        read_reply(scalars, metrics={}, arrays=dict(REPLY.weights.arrays) if REPLY.weights else {})


# SIZE


def test_a_change_above_the_limit_is_scaled_down_to_it() -> None:
    replies = {"A": moved(0.01, seed=1), "B": moved(0.01, seed=2), "C": moved(0.1, seed=3)}  # the median is 0.01
    verdict = judge(replies)
    assert list(verdict.clipped) == ["C"]
    assert "3.33 times the limit" in verdict.clipped["C"]
    assert change_of(verdict.accepted["C"]) == pytest.approx(0.03, rel=1e-4)
    honest, sent = unpack(replies["C"].weights), SENT  # type: ignore[arg-type]
    scaled = verdict.accepted["C"].values("w").reshape(sent["w"].shape)
    np.testing.assert_array_equal(scaled, scaled.astype(np.float32))
    np.testing.assert_allclose(scaled - sent["w"], 0.3 * (honest["w"] - sent["w"]), atol=1e-6)
    np.testing.assert_array_equal(verdict.accepted["C"].values("w", slice(5, 9)), scaled.ravel()[5:9])
    np.testing.assert_array_equal(verdict.accepted["A"].weights["w"], unpack(replies["A"].weights)["w"])  # type: ignore[arg-type]


MULTIPLES = {2.9: "accepted", -10.0: "clipped", 29.0: "clipped", 31.0: "refused", 1e6: "refused"}


@pytest.mark.parametrize(("factor", "fate"), MULTIPLES.items())
def test_multiples_of_the_median(factor: float, fate: str) -> None:
    verdict = judge({"A": moved(0.01, seed=1), "B": moved(0.01, seed=2), "C": moved(factor * 0.01, seed=3)})
    assert ("C" in verdict.accepted, "C" in verdict.clipped, "C" in verdict.refused) == {
        "accepted": (True, False, False),
        "clipped": (True, True, False),
        "refused": (False, False, True),
    }[fate]


@pytest.mark.parametrize("value", [1e38, -3e38])
def test_finite_values_that_overflow_when_squared_are_refused(value: float) -> None:
    huge = dataclasses.replace(REPLY, weights=pack({n: np.full_like(a, value) for n, a in SENT.items()}))
    assert list(judge({"A": huge, "B": moved(0.01)}).refused) == ["A"]


def test_steps_are_counted_by_their_root() -> None:
    """Four times the steps may move twice as far."""
    replies = {"A": moved(0.01, steps=2), "B": moved(0.01, steps=2, seed=1), "C": moved(0.061, steps=8, seed=2)}
    verdict = judge(replies)
    assert change_of(verdict.accepted["C"]) == pytest.approx(0.06, rel=1e-4)


def test_with_two_sites_nobody_can_raise_the_median() -> None:
    verdict = judge({"A": moved(0.1), "B": moved(1e5, seed=1)})
    assert list(verdict.refused) == ["B"]
    assert not verdict.clipped


def test_a_configured_ceiling() -> None:
    config = config_of("federation.max_update_norm=0.01")
    verdict = judge({site: moved(0.1, seed=i) for i, site in enumerate(SIZES)}, config)
    for update in verdict.accepted.values():
        assert change_of(update) == pytest.approx(0.01 * math.sqrt(8), rel=1e-4)


def test_sites_that_change_nothing_are_accepted() -> None:
    verdict = judge(dict.fromkeys(SIZES, REPLY))
    assert list(verdict.accepted) == [*SIZES]
    assert not verdict.clipped


def test_adamw_stays_below_its_ceiling() -> None:
    """The largest change that AdamW made, over noise, constant and sparse gradients, in each phase of the schedule."""
    config = config_of("training.local_steps=40", "training.weight_decay=0.01")
    for round in (1, 30):
        for kind in ("constant", "noise", "late"):
            weights = nn.Parameter(torch.ones(420))
            optimizer = torch.optim.AdamW([weights], weight_decay=config.training.weight_decay)
            generator = torch.Generator().manual_seed(round)
            for step in range(40):
                optimizer.param_groups[0]["lr"] = learning_rate(config.training, rounds=50, round=round, step=step)
                gradient = torch.randn(420, generator=generator)
                weights.grad = {"constant": torch.ones(420), "noise": gradient, "late": gradient * (step == 39)}[kind]
                optimizer.step()
            norm = float((weights.detach() - 1).norm()) / math.sqrt(40)
            assert norm <= norm_limit({"w": weights.detach().numpy()}, [norm], config=config, round=round)


# HONEST SITES


def test_the_noise_of_a_private_round_is_predicted(seeded: Callable[[int], NoiseSource]) -> None:
    """Against the real private step with subjects that contribute nothing."""
    settings = ("privacy.epsilon=8", "privacy.noise_multiplier=2", "privacy.max_grad_norm=0.7", "privacy.lot_rate=0.3")
    config = config_of(*settings)
    privacy = config.privacy
    for round in (1, 50):
        model = nn.Linear(100, 50, bias=False)
        before = model.weight.detach().clone()
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
        schedule = dataclasses.replace(config.training, learning_rate=privacy.learning_rate)
        mechanism = Mechanism(2.0, privacy.max_grad_norm, privacy.lot_rate, SIZES["C"])
        source = seeded(round)
        for step in range(config.training.local_steps):
            optimizer.param_groups[0]["lr"] = learning_rate(schedule, rounds=50, round=round, step=step)
            silent = functools.partial(_nothing_to_learn, model)
            private_step(model, optimizer, silent, count=6, mechanism=mechanism, noise=source)
        norm = float((model.weight.detach() - before).norm())
        predicted = noise_norm(config, parameters=5_000, round=round)
        assert norm == pytest.approx(predicted, rel=0.05)


def test_the_noise_is_that_of_the_trained_part() -> None:
    weights = {
        "decoder.0.conv1.weight": np.zeros((10, 10), np.float32),
        "decoder.0.norm1.weight": np.zeros(4, np.float32),
    }
    settings = ("privacy.epsilon=8", "federation.max_update_norm=1e-9")
    for part, parameters in (("norms", 4), ("all", 104)):
        config = config_of(*settings, f"privacy.trainable={part}")
        floor = 3 * noise_norm(config, parameters=parameters, round=1) / math.sqrt(config.training.local_steps)
        assert norm_limit(weights, [0.0], config=config, round=1) == pytest.approx(floor)


def _nothing_to_learn(model: nn.Linear, subject: int) -> torch.Tensor:
    return 0 * sum(parameter.sum() for parameter in model.parameters())


def train(net: nn.Linear, x: torch.Tensor, y: torch.Tensor, *, steps: int, round: int, config: RunConfig) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.0)
    generator = torch.Generator().manual_seed(round)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(config.training, rounds=50, round=round, step=step)
        batch = torch.randint(len(x), (4,), generator=generator)
        optimizer.zero_grad()
        (net(x[batch]) - y[batch]).abs().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("steps", [{"A": 4, "B": 4, "C": 4}, {"A": 8, "B": 3, "C": 1}])
def test_fifty_rounds_of_unequal_honest_sites(steps: dict[str, int]) -> None:
    """Sites of 24, 14 and 6 subjects with different truths, and with different numbers of steps: none is refused."""
    config, rng = config_of(), np.random.default_rng(0)
    net, cut = nn.Linear(20, 20), 0
    truth = rng.normal(size=(20, 20))
    data = {}
    for i, (site, subjects) in enumerate(SIZES.items()):
        x = rng.normal(loc=i, scale=1 + i, size=(subjects, 20))
        y = x @ (truth + rng.normal(scale=0.5, size=truth.shape))
        data[site] = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    sent = {name: tensor.detach().numpy().copy() for name, tensor in net.state_dict().items()}
    for round in range(1, 51):
        request = dataclasses.replace(REQUEST, round=round, weights=pack(sent))
        replies = {}
        for site, (x, y) in data.items():
            net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in sent.items()})
            train(net, x, y, steps=steps[site], round=round, config=config)
            weights = pack({name: tensor.detach().numpy().copy() for name, tensor in net.state_dict().items()})
            replies[site] = dataclasses.replace(REPLY, round=round, weights=weights, steps=steps[site])
        verdict = judge_updates(replies, request, config=config)
        assert not verdict.refused
        cut += len(verdict.clipped)
        sent = {n: np.mean([u.weights[n] for u in verdict.accepted.values()], axis=0, dtype=np.float32) for n in sent}
    assert cut == 0


@pytest.mark.parametrize("sigmas", [{"A": 1.0, "B": 1.0, "C": 1.0}, {"A": 1.0, "B": 2.0, "C": 5.0}])
def test_fifty_private_rounds_with_different_noise(
    sigmas: dict[str, float], seeded: Callable[[int], NoiseSource]
) -> None:
    """Real private steps of unequal sites, of which some add more noise than the task asks for."""
    config = config_of("privacy.epsilon=8", "privacy.noise_multiplier=1", "privacy.trainable=all")
    schedule = dataclasses.replace(config.training, learning_rate=config.privacy.learning_rate)
    model = nn.Linear(20, 20)
    sent = {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}
    for round in range(1, 51):
        request = dataclasses.replace(REQUEST, round=round, weights=pack(sent))
        replies = {}
        for number, (site, sigma) in enumerate(sigmas.items()):
            model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in sent.items()})
            optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
            mechanism, source = Mechanism(sigma, 0.3, 0.5, SIZES[site]), seeded(3 * round + number)
            for step in range(config.training.local_steps):
                optimizer.param_groups[0]["lr"] = learning_rate(schedule, rounds=50, round=round, step=step)
                silent = functools.partial(_nothing_to_learn, model)
                private_step(model, optimizer, silent, count=2, mechanism=mechanism, noise=source)
            weights = pack({name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()})
            steps = config.training.local_steps
            reply = dataclasses.replace(REPLY, round=round, weights=weights, num_examples=SIZES[site], steps=steps)
            replies[site] = reply
        verdict = judge_updates(replies, request, config=config)
        assert not verdict.refused
        assert not verdict.clipped
