"""Intervals from counted scores, where the truth is known."""

import numpy as np
import pytest
from scipy import stats

from agi_core.conformal import EDGES, count, factor, guaranteed, level
from agi_core.errors import DataError

NORMAL_90 = stats.norm.ppf(0.95)  # half width of the 90 % interval, in standard deviations


def test_the_90_percent_interval_of_a_gaussian() -> None:
    """From so many subjects that the level is 0.9."""
    scores = np.abs(np.random.default_rng(0).normal(size=400_000)) / np.sqrt(2 / np.pi)  # expected |error| of sd 1
    got = factor(count(scores), subjects=10_000) * np.sqrt(2 / np.pi)
    assert got == pytest.approx(NORMAL_90, rel=0.01)


@pytest.mark.parametrize("subjects", [5, 20, 60])
def test_new_exchangeable_subjects_are_covered(subjects: int) -> None:
    """Subjects whose errors are larger or smaller as a whole: any of them may be the new one, and on average as much is
    covered as is guaranteed, and no more than a little above the level."""
    rng = np.random.default_rng(subjects)
    covered = []
    for _ in range(400):
        scale = np.exp(rng.normal(0, 0.3, (subjects + 1, 1)))
        *known, new = np.abs(scale * rng.standard_t(4, (subjects + 1, 300)))
        covered.append(float((new <= factor(sum(map(count, known)), subjects=subjects)).mean()))  # type: ignore[arg-type]
    assert guaranteed(subjects) < np.mean(covered) < level(subjects) + 0.01
    assert np.mean(covered) == pytest.approx(0.9, abs=0.025)


def test_what_is_guaranteed_grows_with_the_subjects_up_to_90_percent() -> None:
    assert [round(guaranteed(n), 3) for n in (1, 8, 20)] == [0.46, 0.818, 0.876]
    assert guaranteed(45) == pytest.approx(0.9)
    assert guaranteed(1000) == pytest.approx(0.9)
    assert level(1000) == pytest.approx(0.9009)


def test_counts_of_sites_are_added() -> None:
    scores = np.random.default_rng(1).exponential(size=2000)
    np.testing.assert_array_equal(count(scores[:700]) + count(scores[700:]), count(scores))
    assert count(np.array([0.0, 1.0, 99.0])).sum() == 3
    assert len(count(scores)) == len(EDGES) + 1


def test_errors_far_beyond_what_is_expected_are_refused() -> None:
    with pytest.raises(DataError, match="20% of the errors are more than 16 times as large as expected"):
        factor(count(np.array([1.0] * 8 + [99.0] * 2)), subjects=50)
