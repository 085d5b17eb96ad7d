"""The comparison of ways to foresee an error, on errors whose size is known."""

import numpy as np
import pytest

from agi_core.uncertainty import VOXELS, Sample
from benchmarks.uncertainty import of_subject, quantile_layer, table


def subject(seed: int) -> Sample:
    """Three features: 1, one that tells nothing, and one that tells the standard deviation."""
    rng = np.random.default_rng(seed)
    features = np.stack([np.ones(VOXELS), *rng.random((2, VOXELS))])
    return Sample(features, np.abs(rng.normal(0, 0.02 + 0.08 * features[2])))


def test_the_feature_that_tells_the_error_gives_the_narrower_interval() -> None:
    lines = table([subject(n) for n in range(20)], [subject(n) for n in range(30, 34)], prior_count=2).splitlines()
    rows = {cells[0]: cells[1:] for line in lines[2:] if (cells := line.strip("| ").split(" | "))}
    assert [*rows] == [
        "nothing: one number",
        "the prior's monomials",
        "these and the last features",
        "the same, its logarithm",
        "the same, its 90 % quantile",
    ]
    score, correlation, coverage = ({name: float(cells[n]) for name, cells in rows.items()} for n in range(3))
    assert correlation["these and the last features"] > correlation["the prior's monomials"] + 0.2
    assert score["these and the last features"] < 0.95 * score["nothing: one number"]
    assert all(0.90 < value < 0.94 for value in coverage.values())


def test_the_quantile_layer_gives_the_quantiles_of_normal_errors() -> None:
    """Of |N(0, sd)| the 90 % quantile is 1.645 sd."""
    some = [subject(n) for n in range(10)]
    layer = quantile_layer(np.concatenate([s.features for s in some], axis=1), np.concatenate([s.error for s in some]))
    np.testing.assert_allclose(layer, 1.645 * np.array([0.02, 0, 0.08]), atol=0.004)


def test_the_figures_of_a_subject_by_hand() -> None:
    score, correlation, covered = of_subject(np.array([0.1, 0.3]), np.array([0.1, 0.1]), factor=2)
    assert score == pytest.approx(0.4 + 20 * 0.1 / 2)
    assert (correlation, covered) == (0, 0.5)
