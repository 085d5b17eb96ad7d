"""The common prior from what sites tell, honest or not."""

import numpy as np

from agi_core.protocol import EVALUATE, STATISTICS, Packed, Reply, Request, pack
from agi_core.ridge import Statistics
from server.calibration import common_prior, judge_statistics

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
    expected = Statistics.mean([sites["A"], *[sites["B"]] * 3]).solve(strength=1e-6)
    np.testing.assert_allclose(common_prior(verdict.accepted), expected, rtol=1e-9)


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
