"""The last layer for all from what sites tell, honest or not, and from their validation."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from agi_core.config.load import load_config
from agi_core.config.schema import FederationConfig, PrivacyConfig, RunConfig
from agi_core.network import Network
from agi_core.protocol import EVALUATE, LAYER_STATISTICS, VALIDATION, Reply, Request, Weights, pack
from agi_core.ridge import STRENGTH, Statistics
from server.collector import Judge, T
from server.last_layer import solve_last_layer, solves_last_layer

SITES = ("A", "B", "C")
CONFIG = dataclasses.replace(
    load_config(None, overrides={}, assignments=["scenario=T1,T2:PD", "model.prior=cubic", "model.widths=[4,4]"]),
    personal="head",
    federation=FederationConfig(sites=SITES),
)
NETWORK = Network(CONFIG)
WEIGHTS, FEATURES = NETWORK.weights, NETWORK.readout.size
rng = np.random.default_rng(0)


def statistics() -> Statistics:
    features = np.concatenate([np.ones((90, 1)), rng.random((90, FEATURES - 1))], axis=1)
    target = rng.random(90)
    return Statistics(features.T @ features / 90, features.T @ target / 90)


class Sites:
    """Sites that tell these statistics of so many subjects, and this validation PSNR; None: they hold it back."""

    def __init__(self, told: Mapping[str, tuple[Statistics, int] | None], after_db: Mapping[str, float]) -> None:
        self.told, self.after_db, self.refused, self.asked = told, after_db, dict[str, str](), list[str]()

    def ask(self, sites: Sequence[str], question: str, weights: Weights, judge: Judge[T]) -> dict[str, T]:
        self.asked.append(question)
        request = Request(
            action=EVALUATE, run_id="r", round=2, nonce="", task="", subjects=question, deadline_s=9, weights=pack({})
        )
        answer = {LAYER_STATISTICS: self.statistics_of, VALIDATION: self.validation_of}[question]
        verdict = judge({site: answer(site) for site in sites}, request)
        self.refused |= verdict.refused
        return dict(verdict.accepted)

    def statistics_of(self, site: str) -> Reply:
        its, count = self.told[site] or (None, 0)
        weights = None if its is None else pack(its.arrays())
        return Reply(run_id="r", round=2, nonce="", num_examples=count, metrics={}, weights=weights)

    def validation_of(self, site: str) -> Reply:
        metrics = {}
        if site in self.after_db:
            metrics = {"validation_psnr_db": self.after_db[site], "validation_subjects": 1.0}
        return Reply(run_id="r", round=2, nonce="", num_examples=1, metrics=metrics, weights=None)


BEFORE_DB = {"A": 20.0, "B": 21.0, "C": 22.0}
TOLD = {"A": (statistics(), 1), "B": (statistics(), 3), "C": None}


def test_it_is_solved_from_those_who_tell_each_as_often_as_it_has_subjects() -> None:
    sites = Sites(TOLD, {"A": 20.5, "B": 21.1, "C": 21.9})
    weights, validated, solved = solve_last_layer(CONFIG, WEIGHTS, validation_db=BEFORE_DB, sites=SITES, ask=sites.ask)
    assert (solved.sites, solved.left_out, solved.why, sites.refused) == (["A", "B"], ["C"], "", {})
    assert solved.gains == pytest.approx({"A": 0.5, "B": 0.1, "C": -0.1})
    assert [its.psnr_db for its in validated.values()] == [20.5, 21.1, 21.9]
    network = Network(CONFIG)
    network.load(weights)
    mean = Statistics.mean([TOLD["A"][0], *[TOLD["B"][0]] * 3])
    expected = mean.solve(strength=STRENGTH, towards=NETWORK.readout)
    np.testing.assert_allclose(network.readout, expected, rtol=1e-4, atol=1e-5)
    network.set_readout(NETWORK.readout)
    for name, array in network.weights.items():  # nothing but the last layer
        np.testing.assert_array_equal(array, WEIGHTS[name])


@pytest.mark.parametrize(
    ("told", "after_db", "why", "questions"),
    [
        (dict.fromkeys(SITES), {}, "no site lets statistics of it leave", 1),
        ({**TOLD, "B": None}, {}, "only A of 3 sites told statistics of it", 1),
        (TOLD, {"A": 19.9, "B": 20.8, "C": 25.0}, "the solved one is worse in validation, by 0.10 dB", 2),
        (TOLD, {"C": 99.0}, "1 of 3 sites validated the solved one", 2),
        (TOLD, {"A": 19.0, "C": 99.0}, "the solved one is worse in validation, by 1.00 dB", 2),
    ],
    ids=["nobody", "few", "worse", "few validate", "two validate"],
)
def test_else_the_model_stays_as_it_was_trained(
    told: Mapping[str, tuple[Statistics, int] | None], after_db: Mapping[str, float], why: str, questions: int
) -> None:
    sites = Sites(told, after_db)
    weights, validated, solved = solve_last_layer(CONFIG, WEIGHTS, validation_db=BEFORE_DB, sites=SITES, ask=sites.ask)
    assert weights is WEIGHTS
    assert (validated, why in solved.why, len(sites.asked)) == ({}, True, questions)


def test_without_validation_it_is_taken() -> None:
    """Hospitals of one subject each validate nothing, and gain the most."""
    sites = Sites(TOLD, {})
    weights, validated, solved = solve_last_layer(CONFIG, WEIGHTS, validation_db={}, sites=SITES, ask=sites.ask)
    assert (validated, solved.gains, solved.why) == ({}, {}, "")
    assert weights is not WEIGHTS


def test_what_no_honest_site_tells_is_refused() -> None:
    honest, most = statistics(), np.full(FEATURES, 2e4)
    impossible = Statistics(-honest.gram, honest.moment)
    bright = Statistics(np.outer(most, most), most)
    sites = Sites({"A": (honest, 2), "B": (impossible, 9), "C": (bright, 9)}, {})
    *_, solved = solve_last_layer(CONFIG, WEIGHTS, validation_db={}, sites=SITES, ask=sites.ask)
    assert [*sites.refused] == ["B", "C"]
    assert "only A of 3 sites told" in solved.why


def test_a_robust_rule_decides_here_too() -> None:
    federation = FederationConfig(sites=SITES, aggregation="median")
    config = dataclasses.replace(CONFIG, federation=federation)
    honest = TOLD["A"][0]
    liar = Statistics(honest.gram, -honest.moment)
    sites = Sites({"A": (honest, 3), "B": (honest, 3), "C": (liar, 99)}, {})
    weights, _, solved = solve_last_layer(config, WEIGHTS, validation_db={}, sites=SITES, ask=sites.ask)
    network = Network(CONFIG)
    network.load(weights)
    expected = honest.solve(strength=STRENGTH, towards=NETWORK.readout)
    np.testing.assert_allclose(network.readout, expected, rtol=1e-3, atol=1e-3)
    assert not solved.why
    two = Sites({"A": (honest, 3), "B": None, "C": (liar, 9)}, {})
    weights, _, solved = solve_last_layer(config, WEIGHTS, validation_db={}, sites=SITES, ask=two.ask)
    assert weights is WEIGHTS
    assert "median needs 3 replies" in solved.why


@pytest.mark.parametrize(
    ("changes", "asks"),
    [
        ({}, True),
        ({"personal": "none"}, False),
        ({"personal": "norms"}, False),
        ({"privacy": PrivacyConfig(epsilon=8)}, False),
        ({"federation": FederationConfig(sites=SITES, secure_sum=True)}, False),
    ],
)
def test_who_is_not_asked_for_statistics_without_noise(changes: Mapping[str, object], asks: bool) -> None:
    config: RunConfig = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    assert solves_last_layer(config) == asks
