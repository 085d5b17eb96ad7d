"""The interval of a run from what sites tell, honest or not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agi_core import conformal
from agi_core.config.schema import FederationConfig, RunConfig
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.pooled_errors import layer_in
from agi_core.protocol import ERROR_COUNTS, EVALUATE, Packed, Reply, Request, Weights, pack
from agi_core.ridge import Statistics
from agi_core.run.error_model import NAME, read_error_model
from agi_core.uncertainty import VOXELS, Sample, expected
from server.collector import Judge
from server.common_prior import judge_feature_statistics
from server.interval import judge_error_counts, solve_interval

CONFIG = RunConfig(
    scenario="T1,T2:PD", model=ModelConfig(widths=(4, 4)), federation=FederationConfig(sites=("A", "B", "C", "D"))
)
FEATURES = len(Network(CONFIG).readout)
REQUEST = Request(
    action=EVALUATE, run_id="run", round=1, nonce="", task="", subjects=ERROR_COUNTS, deadline_s=9, weights=pack({})
)


def reply(weights: Packed | None, *, subjects: int = 1) -> Reply:
    return Reply(run_id="run", round=1, nonce="n", num_examples=subjects, metrics={}, weights=weights)


def voxels(seed: int, *, harder: float = 1.0) -> Sample:
    """One subject, whose error is normal and grows with the second feature."""
    rng = np.random.default_rng(seed)
    features = rng.random((FEATURES, VOXELS))
    features[0] = 1
    return Sample(features, np.abs(rng.normal(0, harder * (0.02 + 0.08 * features[1]))).clip(0, 1))


class Sites:
    """Sites with one validation subject each; D holds everything back."""

    def __init__(self, samples: Mapping[str, Sample]) -> None:
        self.samples, self.asked = samples, dict[str, Sequence[str]]()

    def ask(
        self,
        sites: Sequence[str],
        question: str,
        weights: Weights,
        judge: Judge[Any],
        *,
        of_site: Mapping[str, Packed] | None = None,
    ) -> Mapping[str, Any]:
        self.asked[question] = sites
        replies = {site: reply(None, subjects=0) for site in sites}
        for site, one in self.samples.items():
            arrays = one.statistics.arrays()
            if question == ERROR_COUNTS:
                assert of_site is not None
                layer = layer_in(of_site[site], features=FEATURES)
                arrays = {"error_counts": conformal.count(one.error / expected(layer, one.features))}
            replies[site] = reply(pack(arrays))
        verdict = judge(replies, REQUEST)
        assert not verdict.refused
        return verdict.accepted


def test_the_run_has_an_error_model_that_holds_at_each_site(tmp_path: Path) -> None:
    sites = Sites({"A": voxels(1), "B": voxels(2), "C": voxels(3, harder=2)})
    network = Network(CONFIG)
    solved = solve_interval(tmp_path, CONFIG, network.weights, sites=[*"ABCD"], ask=sites.ask)
    assert [*sites.asked.values()] == [[*"ABCD"], [*"ABC"]]
    model = read_error_model(tmp_path / NAME, network=network)
    assert (model.subjects, model.sites, model.calibrated_on) == (3, 3, ())
    assert model.counts.sum() == 3 * VOXELS
    assert solved.factor == model.factor
    assert solved.subjects == {"A": 1, "B": 1, "C": 1}
    assert np.mean([*solved.covered.values()]) == pytest.approx(conformal.level(3), abs=0.01)
    assert solved.covered["C"] < 0.8 < solved.covered["A"]
    assert solved.left_out == ["D"]
    assert solved.said == (
        f"90 % interval: {model.factor:.2f} expected errors, by 3 validation subjects at 3 of 4 sites;"
        " without D, who told nothing of errors"
    )
    new = voxels(9)
    assert (new.error <= model.factor * expected(model.layer, new.features)).mean() > 0.85


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ({"A": voxels(1)}, "no 90 % interval: 1 of 4 sites told how large errors are, and it takes 2"),
        ({"A": voxels(1), "B": voxels(2, harder=50)}, "no 90 % interval: 3"),
    ],
)
def test_without_an_interval_the_run_says_why(tmp_path: Path, samples: Mapping[str, Sample], said: str) -> None:
    sites, network = Sites(samples), Network(CONFIG)
    solved = solve_interval(tmp_path, CONFIG, network.weights, sites=[*"ABCD"], ask=sites.ask)
    assert solved.factor is None
    assert solved.said.startswith(said)
    assert not [*tmp_path.iterdir()]


def test_what_no_honest_site_tells_is_refused_and_who_tells_nothing_is_left_out() -> None:
    counts = np.zeros(66, dtype=np.int64)
    counts[30] = VOXELS
    moved = counts.copy()
    moved[[30, 31]] = VOXELS + 1, -1
    wraps = np.full(66, 2**62, dtype=np.int64)
    wraps[:3] = VOXELS, 2**62, 2**62
    replies = {
        "A": reply(pack({"error_counts": counts})),
        "B": reply(None, subjects=0),
        "C": reply(pack({"error_counts": counts}), subjects=2),
        "D": reply(pack({"error_counts": moved})),
        "E": reply(pack({"error_counts": counts.astype(np.float64)})),
        "F": reply(pack({"error_counts": counts[:5]})),
        "G": reply(pack({"other": counts})),
        "H": reply(pack({"error_counts": np.zeros(66, dtype=np.int64)}), subjects=0),
        "I": reply(pack({"error_counts": wraps})),
        "J": reply(Packed({"int64": counts[:3]}, '[["error_counts","int64",[66]]]')),
    }
    verdict = judge_error_counts(replies, REQUEST)
    assert [*verdict.accepted] == ["A"]
    assert [*verdict.refused] == [*"CDEFGHIJ"]
    honest = Statistics(np.eye(FEATURES), np.zeros(FEATURES))
    of_statistics = {"A": reply(pack(honest.arrays())), "B": reply(None, subjects=0), "C": reply(pack({"x": counts}))}
    first = judge_feature_statistics(of_statistics, REQUEST, features=FEATURES)
    assert ([*first.accepted], [*first.refused]) == (["A"], ["C"])
