import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agi_core.config.schema import FederationConfig
from server.aggregation import SiteUpdate, aggregate
from server.server_step import next_weights

SENT = {"w": np.array([1.0, 1.0], np.float32)}
UPDATES = [
    SiteUpdate("B", {"w": np.array([3.0, 1.0], np.float32)}, 3),
    SiteUpdate("A", {"w": np.array([7.0, 5.0], np.float32)}, 1),
]


def test_mean_is_weighted_by_training_subjects() -> None:
    weights, velocity = next_weights(SENT, UPDATES, velocity={}, config=FederationConfig())
    np.testing.assert_array_equal(weights["w"], [4.0, 2.0])  # (3*3 + 7*1)/4, (1*3 + 5*1)/4
    assert weights["w"].dtype == np.float32
    assert velocity == {}


def test_server_momentum_by_hand() -> None:
    config = FederationConfig(server_momentum=0.5, server_learning_rate=2.0)
    weights, velocity = next_weights(SENT, UPDATES, velocity={}, config=config)
    np.testing.assert_allclose(velocity["w"], [3.0, 1.0])  # mean - sent
    np.testing.assert_allclose(weights["w"], [7.0, 3.0])  # sent + 2 * velocity
    again, velocity = next_weights(weights, UPDATES, velocity=velocity, config=config)
    np.testing.assert_allclose(velocity["w"], [0.5 * 3 + 4 - 7, 0.5 * 1 + 2 - 3])
    np.testing.assert_allclose(again["w"], [7 + 2 * -1.5, 3 + 2 * -0.5])


def test_server_adam_by_hand() -> None:
    config = FederationConfig(server_optimizer="adam", server_learning_rate=0.1)
    weights, state = next_weights(SENT, UPDATES, velocity={}, config=config)
    m, u = 0.1 * np.array([3.0, 1.0]), 0.01 * np.array([9.0, 1.0])
    np.testing.assert_allclose(weights["w"], 1 + 0.1 * m / (np.sqrt(u) + 1e-3), rtol=1e-6)
    again, state = next_weights(weights, UPDATES, velocity=state, config=config)
    change = np.array([4.0, 2.0]) - weights["w"].astype(np.float64)
    m, u = 0.9 * m + 0.1 * change, 0.99 * u + 0.01 * change**2
    np.testing.assert_allclose(again["w"], weights["w"] + 0.1 * m / (np.sqrt(u) + 1e-3), rtol=1e-6)
    assert set(state) == {"w", "squares/w"}


@given(st.permutations(range(5)), st.integers(0, 99))
def test_the_order_of_replies_does_not_change_a_bit(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    updates = [SiteUpdate(f"site{i}", {"w": rng.normal(size=7).astype(np.float32)}, i + 1) for i in range(5)]
    shuffled = [updates[i] for i in order]
    one, other = (aggregate(some, config=FederationConfig()) for some in (updates, shuffled))
    np.testing.assert_array_equal(one["w"], other["w"])


def test_one_site_alone_keeps_its_weights_exactly() -> None:
    update = SiteUpdate("A", {"w": np.array([0.1, 1e-8], np.float32)}, 7)
    weights, _ = next_weights(SENT, [update], velocity={}, config=FederationConfig())
    np.testing.assert_array_equal(weights["w"], update.weights["w"])


def test_integers_and_floats_keep_their_dtype() -> None:
    sent = {"n": np.array([4], np.int64)}
    weights, _ = next_weights(
        sent, [SiteUpdate("A", {"n": np.array([6], np.int64)}, 1)], velocity={}, config=FederationConfig()
    )
    assert weights["n"].dtype == np.int64
    assert weights["n"] == pytest.approx(6)
