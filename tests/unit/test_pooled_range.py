"""Sites that tell a range together, against one that has all their subjects."""

import numpy as np
import pytest

from agi_core.config.schema import Task
from agi_core.errors import DataError
from agi_core.known_range import OF_TRAINING, KnownRange, Measures, names_of
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.pooled_range import LARGEST_SIZE, Told, are_possible, moments, pooled

NAMES = ("field of view of T1: right, mm", "intensities of T1: percentile 50 of the head")
POSSIBLE = ((240.0, 0.5), (240.0**2 + 9, 0.26))


def subjects(seed: int, count: int) -> list[Measures]:
    """With one measure that is alike in all, of which the mean square is lost in rounding."""
    values = np.random.default_rng(seed).normal(0.5, 0.05 * (1 + seed), count)
    return [{NAMES[0]: 239.9, NAMES[1]: float(value)} for value in values]


def test_the_pooled_range_is_that_of_all_subjects_together() -> None:
    sites = {"A": subjects(0, 7), "B": subjects(1, 1), "C": subjects(2, 16)}
    told: dict[str, Told] = {site: (moments(its, NAMES), len(its)) for site, its in sites.items()}
    found = pooled(told, NAMES)
    together = KnownRange.over([one for its in sites.values() for one in its], of=OF_TRAINING)
    assert (str(found), [*found.means]) == (str(together), [*NAMES])
    assert found.means == pytest.approx(together.means, rel=1e-12)
    assert found.spreads == pytest.approx(together.spreads, rel=1e-9, abs=1e-4)
    assert found.halves() == pytest.approx(together.halves(), rel=1e-9)


def test_the_order_of_names_follows_sources_and_alignment() -> None:
    aligned, plain = (
        names_of(Network(Task(scenario="T2,T1:PD", model=ModelConfig(widths=(4, 4), alignment=alignment))))
        for alignment in ("affine", "none")
    )
    assert aligned[0] == "voxels of T2: right, mm"
    assert len({*aligned}) == len(aligned) == 40
    assert [name for name in aligned if not name.endswith("after alignment")] == [*plain]


@pytest.mark.parametrize(
    "told",
    [
        ((np.nan, 0.5), POSSIBLE[1]),
        (POSSIBLE[0], (np.inf, 0.26)),
        ((1e200, 0.5), POSSIBLE[1]),
        (POSSIBLE[0], (240.0**2 - 0.01, 0.26)),  # less than no spread
        (POSSIBLE[0], (240.0**2, 0.24)),
        (POSSIBLE[0], (240.0**2, 1.1)),  # no such subjects have intensities from 0 to 1
        (POSSIBLE[0], (2 * LARGEST_SIZE**2, 0.26)),
        ((240.0, -1.1), (240.0**2, 1.0)),
    ],
)
def test_what_no_subjects_have_is_known(told: tuple[tuple[float, float], tuple[float, float]]) -> None:
    assert are_possible(np.array(POSSIBLE), NAMES)
    assert are_possible(moments(subjects(0, 1), NAMES), NAMES)
    assert not are_possible(np.array(told), NAMES)


def test_a_head_that_cannot_be_measured_tells_nothing() -> None:
    with pytest.raises(DataError, match="not finite"):
        moments([*subjects(0, 3), {NAMES[0]: 240.0, NAMES[1]: np.nan}], NAMES)
