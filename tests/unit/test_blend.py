"""The weights of a blend, against figures worked out by hand and against experts whose errors are known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agi_core.blend import Blend, Expert, blend_weights
from tests.support.predictors import Made


@pytest.mark.parametrize(
    ("errors", "apart", "first"),
    [
        ((4.0, 4.0), 2.0, 0.5),  # equals
        ((4.0, 5.0), 2.0, 0.75),  # 1/2 + (5 - 4) / (2 * 2)
        ((4.0, 8.0), 1.0, 1.0),  # 1/2 + 4 / 2 = 2.5, cut
        ((8.0, 4.0), 1.0, 0.0),
        ((4.0, 4.0), 0.0, 0.5),  # one and the same
        ((3.0, 4.0), 0.0, 1.0),
    ],
)
def test_two_experts(errors: tuple[float, float], apart: float, first: float) -> None:
    assert blend_weights(errors, {(0, 1): apart}) == pytest.approx([first, 1 - first])


def test_one_expert_has_all_the_weight() -> None:
    assert blend_weights([0.3], {}) == [1.0]


def test_where_nobody_has_measured_errors_are_independent() -> None:
    weights = blend_weights([1.0, 2.0, 4.0], {})
    assert weights == pytest.approx([4 / 7, 2 / 7, 1 / 7])  # inverse variances


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_no_expert_and_no_equal_blend_is_better_on_the_errors_that_were_measured(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    errors = rng.normal(size=(count, 40)) @ np.diag(rng.uniform(0.1, 1, 40)) + rng.normal(size=40) * rng.uniform(0, 2)
    apart = {(i, j): float(((errors[i] - errors[j]) ** 2).mean()) for i in range(count) for j in range(i + 1, count)}
    weights = blend_weights((errors**2).mean(axis=1), apart)
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1)

    def error_of(some: NDArray[np.float64]) -> float:
        return float(((some @ errors) ** 2).mean())

    best = error_of(np.array(weights))
    others = [*np.eye(count), np.full(count, 1 / count), *rng.dirichlet(np.ones(count), size=50)]
    assert all(best <= error_of(other) + 1e-6 for other in others)


def test_each_expert_sees_its_own_sources() -> None:
    sources = torch.stack([torch.full((2, 8, 8), value) for value in (0.1, 0.2, 0.4)], dim=1)
    mean = Made(lambda sources: sources.mean(dim=1, keepdim=True))
    blend = Blend((Expert(mean, (0, 2), 0.25), Expert(mean, (1,), 0.75)))
    assert torch.allclose(blend.predict(sources), torch.full((2, 1, 8, 8), 0.25 * 0.25 + 0.75 * 0.2))
