"""The common prior from what sites tell, honest or not."""

import numpy as np
import pytest

from agi_core.config.schema import FederationConfig, PrivacyConfig, Task
from agi_core.errors import RunError
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.privacy.private_prior import common_step, planned_release
from agi_core.protocol import EVALUATE, STATISTICS, Packed, Reply, Request, pack
from agi_core.ridge import Statistics, whitening
from server.common_prior import judge_statistics, judge_steps, set_common_prior, take_private_step

TASK = Task(scenario="T1,T2:PD", model=ModelConfig(widths=(4, 4), prior="cubic"))
rng = np.random.default_rng(0)


def statistics(size: int) -> Statistics:
    features = np.concatenate([np.ones((60, 1)), rng.random((60, size - 1))], axis=1)
    target = rng.random(60)
    return Statistics(features.T @ features / 60, features.T @ target / 60)


def reply(weights: Packed | None, *, subjects: int = 3) -> Reply:
    return Reply(run_id="run", round=0, nonce="n", num_examples=subjects, metrics={}, weights=weights)


REQUEST = Request(
    action=EVALUATE, run_id="run", round=0, nonce="", task="", subjects=STATISTICS, deadline_s=9, weights=pack({})
)


def test_each_site_counts_as_often_as_it_has_subjects() -> None:
    sites = {"A": statistics(10), "B": statistics(10)}
    replies = {"A": reply(pack(sites["A"].arrays()), subjects=1), "B": reply(pack(sites["B"].arrays()), subjects=3)}
    verdict = judge_statistics(replies, REQUEST, features=10)
    assert not verdict.refused
    network, expected = Network(TASK), Statistics.mean([sites["A"], *[sites["B"]] * 3])
    assert network.prior_gram is None
    set_common_prior(network, verdict.accepted, federation=FederationConfig())
    np.testing.assert_allclose(network.prior, expected.solve(strength=1e-6), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(network.prior_gram, expected.gram, rtol=1e-6)


def test_another_rule_than_the_mean_takes_what_sites_agree_on() -> None:
    """The median of three sites of which two tell the same is theirs, whatever the third tells."""
    honest, network = statistics(10), Network(TASK)
    bright = np.ones(10)
    told = {"A": (honest, 3), "B": (honest, 3), "C": (Statistics(np.outer(bright, bright), np.zeros(10)), 99)}
    set_common_prior(network, told, federation=FederationConfig(aggregation="median"))
    np.testing.assert_allclose(network.prior, honest.solve(strength=1e-6), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(network.prior_gram, honest.gram, rtol=1e-6)
    with pytest.raises(RunError, match="median needs 3 replies to withstand 1 hostile, and 2 were accepted"):
        set_common_prior(network, {"A": told["A"], "C": told["C"]}, federation=FederationConfig(aggregation="median"))


def test_what_no_honest_site_tells_is_refused_and_the_others_count() -> None:
    honest = statistics(10)
    wrong = Statistics(honest.gram * 2, honest.moment)
    replies = {
        "A": reply(pack(honest.arrays())),
        "B": reply(None),
        "C": reply(pack(wrong.arrays())),
        "D": reply(pack(statistics(4).arrays())),
        "E": reply(pack(honest.arrays()), subjects=0),
        "F": reply(Packed({"float64": np.zeros(3)}, '[["statistics","float64",[65]]]')),
    }
    verdict = judge_statistics(replies, REQUEST, features=10)
    assert [*verdict.accepted] == ["A"]
    assert [*verdict.refused] == ["B", "C", "D", "E", "F"]


def test_a_private_step_moves_a_public_prior_in_white_coordinates() -> None:
    network, public, privacy = Network(TASK), statistics(10), PrivacyConfig(epsilon=8.0)
    network.set_prior(np.full(10, 0.1), gram=public.gram)
    replies = {site: reply(pack({"step": np.eye(10)[n] / 20}), subjects=100) for n, site in enumerate("AB")}
    verdict = judge_steps(replies, REQUEST, features=10)
    assert not verdict.refused
    step = common_step([*verdict.accepted.values()], noise_multiplier=planned_release(privacy).noise_multiplier)
    gram = network.prior_gram
    take_private_step(network, verdict.accepted, privacy=privacy)
    assert gram is not None
    np.testing.assert_allclose(network.prior, 0.1 + whitening(gram) @ step, rtol=1e-4, atol=1e-5)


def test_what_is_no_step_is_refused() -> None:
    replies = {
        "A": reply(None),
        "B": reply(pack({"step": np.zeros(9)})),
        "C": reply(pack({"step": np.full(10, np.nan)})),
        "D": reply(pack({"other": np.zeros(10)})),
        "E": reply(pack({"step": np.zeros(10, np.float32)})),
        "F": reply(pack({"step": np.zeros(10)}), subjects=0),
        "G": reply(Packed({"float64": np.zeros(10)}, manifest="[[")),
    }
    assert [*judge_steps(replies, REQUEST, features=10).refused] == [*replies]
