import numpy as np
import pytest
from scipy import stats

from agi_core.report.intervals import over_sites


def test_it_is_students_t() -> None:
    values = [21.0, 23.5, 22.0, 26.0]
    interval = over_sites(values)
    assert interval is not None
    assert interval.sites == 4
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert interval.mean == pytest.approx(23.125)


@pytest.mark.parametrize("values", [[], [20.0], [20.0, 21.0]])
def test_two_sites_have_none(values: list[float]) -> None:
    assert over_sites(values) is None
