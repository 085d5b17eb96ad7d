"""The private step of a prior: its sensitivity, its noise, its cost, and that it is a Newton step."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agi_core.config.schema import PrivacyConfig
from agi_core.errors import PrivacyError
from agi_core.privacy.accounting import Steps, calibrate, epsilon
from agi_core.privacy.noise import NoiseSource, system_noise
from agi_core.privacy.private_prior import CLIP, common_step, noisy_newton_step, planned_release
from agi_core.ridge import Statistics, Vector, whitening

SIZE = 3
rng = np.random.default_rng(0)


class NoNoise(NoiseSource):
    def normal(self, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.zeros(count)


NO_NOISE = NoNoise(bytes(32))


def subject(seed: int, *, scale: float = 1.0) -> Statistics:
    own = np.random.default_rng(seed)
    features = np.concatenate([np.ones((40, 1)), own.random((40, SIZE - 1))], axis=1)
    target = scale * own.random(40)
    return Statistics(features.T @ features / 40, features.T @ target / 40)


def step(subjects: list[Statistics], *, prior: Vector | None = None, noise: NoiseSource = NO_NOISE) -> Vector:
    prior = np.zeros(SIZE) if prior is None else prior
    return noisy_newton_step(subjects, prior=prior, gram=subject(99).gram, count=10, noise_multiplier=2.0, noise=noise)


@given(st.integers(0, 5), st.integers(0, 10**6), st.floats(0, 1e6))
def test_a_subject_moves_the_sum_by_at_most_the_clip_and_nobody_elses_term(n: int, seed: int, scale: float) -> None:
    others = [subject(k) for k in range(n)]
    without, one = step(others), subject(10**7 + seed, scale=scale)
    moved = step([*others, one]) - without
    assert np.linalg.norm(moved) <= CLIP / 10 * (1 + 1e-12)
    np.testing.assert_allclose(moved, step([one]), atol=1e-15)


def test_a_short_term_by_hand_and_a_long_one_clipped() -> None:
    gram, white = subject(99).gram, whitening(subject(99).gram)
    own = Statistics(gram, gram @ np.full(SIZE, 1e-3))
    expected = white @ own.moment
    assert 0 < np.linalg.norm(expected) < CLIP
    np.testing.assert_allclose(step([own]), expected / 10, rtol=1e-6)
    long = Statistics(gram, gram @ np.full(SIZE, 1e3))
    assert np.linalg.norm(step([long])) == pytest.approx(CLIP / 10, rel=1e-6)
    np.testing.assert_allclose(step([own], prior=np.full(SIZE, 1e-3)), np.zeros(SIZE), atol=1e-12)


def test_a_subject_that_is_not_finite_adds_nothing() -> None:
    broken = Statistics(np.full((SIZE, SIZE), np.nan), np.full(SIZE, np.inf))
    np.testing.assert_array_equal(step([subject(1), broken]), step([subject(1)]))


def test_the_noise_has_the_size_that_the_ledger_counts(seeded: Callable[[int], NoiseSource]) -> None:
    noise = seeded(0)
    told = np.array([step([], noise=noise) for _ in range(4000)])
    assert told.std() == pytest.approx(2.0 * CLIP / 10, rel=0.02)
    assert not np.array_equal(step([], noise=system_noise()), step([], noise=system_noise()))


def test_the_common_step_by_hand() -> None:
    """Two sites of 100 and 300: the mean by N, less its noise: K = 2 coefficients, variance 2 (0.05 sigma / 400)^2."""
    told = [(np.array([0.04, 0.0]), 100), (np.array([0.0, 0.04]), 300)]
    mean, variance = np.array([0.01, 0.03]), 2 * (CLIP * 4 / 400) ** 2
    expected = mean * (1 - 2 * variance / (mean @ mean))
    np.testing.assert_allclose(common_step(told, noise_multiplier=4.0), expected)
    np.testing.assert_array_equal(common_step(told, noise_multiplier=400.0), [0, 0])  # all noise: the prior stays


def test_what_is_mostly_noise_moves_the_prior_by_little_however_long_it_is() -> None:
    """The root mean square of the noise is 4 C here, and a step of 6 C by chance nothing unusual."""
    noise_multiplier = 4 * 10 / np.sqrt(2)
    step = common_step([(np.array([6 * CLIP, 0.0]), 10)], noise_multiplier=noise_multiplier)
    np.testing.assert_allclose(step, [6 * CLIP / (1 + 4**2), 0])  # and not 6 C (1 - 16 / 36)


@pytest.mark.parametrize("signal", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("noise", [0.3, 1.0, 5.0])
def test_a_step_is_hardly_ever_worse_than_none(signal: float, noise: float) -> None:
    """Signal and root mean square noise in C: the mean squared error is at most that of staying, and a little more."""
    rng = np.random.default_rng(0)
    truth = np.full(10, signal * CLIP / np.sqrt(10))
    sigma = noise * 10 / np.sqrt(10)
    told = truth + rng.normal(size=(2000, 10)) * sigma * CLIP / 10
    errors = [((common_step([(one, 10)], noise_multiplier=sigma) - truth) ** 2).sum() for one in told]
    assert np.sqrt(np.mean(errors)) / CLIP < signal + 0.3


@pytest.mark.parametrize("size", [1e3, 1e9])
def test_a_share_that_noise_does_not_explain_is_cut_down(size: float) -> None:
    step = common_step([(np.array([size, 0.0]), 100)], noise_multiplier=1.0)
    assert CLIP < step[0] < CLIP * (1 + 3 * np.sqrt(2) / 100)


def test_white_coordinates() -> None:
    gram = subject(99).gram
    white = whitening(gram)
    np.testing.assert_allclose(white @ (gram + 1e-5 * np.eye(SIZE)) @ white, np.eye(SIZE), atol=1e-9)
    assert np.isfinite(whitening(np.zeros((SIZE, SIZE)))).all()


def test_the_step_solves_subjects_who_have_the_public_gram() -> None:
    gram, true = subject(99).gram, np.array([1e-3, -2e-3, 1e-3])
    subjects = [Statistics(gram, gram @ true)] * 10
    np.testing.assert_allclose(whitening(gram) @ step(subjects), true, rtol=0.01)


@pytest.mark.parametrize("asked", [pytest.param(0.5, marks=pytest.mark.slow), 8.0])
def test_release_and_training_together_keep_the_budget(asked: float) -> None:
    privacy = PrivacyConfig(epsilon=asked)
    release = planned_release(privacy)
    assert (release.lot_rate, release.steps) == (1.0, 1)
    kwargs = {"delta": privacy.delta, "lot_rate": 0.5, "steps": 24}
    sigma = calibrate(asked, **kwargs, besides=(release,))  # type: ignore[arg-type]
    assert 0.97 * asked < epsilon([Steps(sigma, 0.5, 24), release], delta=privacy.delta) <= asked
    assert sigma < 1.1 * calibrate(asked, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match=r"needs privacy\.epsilon"):
        planned_release(dataclasses.replace(privacy, epsilon=None))
