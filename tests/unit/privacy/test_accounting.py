"""Epsilon against Google's dp-accounting, against published figures and against the closed form without sampling."""

import math

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant, prv
from opacus.accountants.analysis.prv import Domain
from scipy import optimize, stats

from agi_core.errors import PrivacyError
from agi_core.privacy import accounting
from agi_core.privacy.accounting import MOST_POINTS, Steps, calibrate, epsilon, epsilon_rdp

DELTA = 1e-5


def epsilon_pld(history: list[Steps]) -> float:
    """The oracle: privacy loss distributions, add-or-remove-one neighbours."""
    accountant = PLDAccountant()
    for sigma, rate, steps in history:
        accountant.compose(SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)), steps))
    return float(accountant.get_epsilon(DELTA))


@pytest.mark.parametrize(
    "history",
    [
        [Steps(1.0, 0.04, 1250)],
        [Steps(1.0, 4 / 300, 75)],
        [Steps(3.0, 0.5, 240)],
        [Steps(20.0, 0.5, 240)],
        [Steps(0.8, 0.1, 10)],
        [Steps(30.0, 1.0, 20)],
        [Steps(1.1, 0.05, 25), Steps(1.1, 0.05, 25), Steps(0.9, 0.1, 10), Steps(2.0, 0.5, 40), Steps(1.1, 0.05, 25)],
    ],
    ids=str,
)
def test_epsilon_is_within_a_hundredth_of_dp_accounting(history: list[Steps]) -> None:
    truth = epsilon_pld(history)
    assert 0.998 * truth < epsilon(history, delta=DELTA) < 1.01 * truth
    assert epsilon(history, delta=DELTA) < epsilon_rdp(history, delta=DELTA)


@pytest.mark.parametrize(("sigma", "steps"), [(5.0, 1), (5.0, 100), (2.0, 1)])
def test_without_sampling_it_is_the_gaussian_mechanism(sigma: float, steps: int) -> None:
    """Balle and Wang 2018, Theorem 8, with mu = sqrt(steps) / sigma."""
    mu = math.sqrt(steps) / sigma

    def excess(eps: float) -> float:
        cdf = stats.norm.cdf
        return float(cdf(mu / 2 - eps / mu) - math.exp(eps) * cdf(-mu / 2 - eps / mu) - DELTA)

    truth = optimize.brentq(excess, 1e-3, 60)
    assert 0.999 * truth < epsilon([Steps(sigma, 1.0, steps)], delta=DELTA) < 1.01 * truth


@pytest.mark.parametrize(
    ("subjects", "whole_rdp", "whole_prv", "round_rdp", "round_prv"),
    [(100, 10.49, 9.62, 2.23, 1.76), (300, 5.44, 4.99, 1.35, 0.88)],
)
def test_fifty_rounds_cost_what_they_cost_and_not_what_one_does(
    subjects: int, whole_rdp: float, whole_prv: float, round_rdp: float, round_prv: float
) -> None:
    """Sigma 1, lots of 4, one epoch per round: an engine made anew in each round would show the last two figures."""
    one_round = Steps(1.0, 4 / subjects, subjects // 4)
    fifty = [one_round] * 50
    assert epsilon_rdp(fifty, delta=DELTA) == pytest.approx(whole_rdp, abs=0.006)
    assert epsilon(fifty, delta=DELTA) == pytest.approx(whole_prv, abs=0.006)
    assert epsilon_rdp([one_round], delta=DELTA) == pytest.approx(round_rdp, abs=0.006)
    assert epsilon([one_round], delta=DELTA) == pytest.approx(round_prv, abs=0.006)


@pytest.mark.parametrize(
    ("target", "rate", "steps"), [(8.0, 0.16, 450), (1.0, 0.5, 240), (3.0, 1.0, 30), (0.1, 0.1, 20)]
)
def test_calibrated_noise_keeps_the_target_and_wastes_little(target: float, rate: float, steps: int) -> None:
    sigma = calibrate(target, delta=DELTA, lot_rate=rate, steps=steps)
    assert 0.98 * target < epsilon([Steps(sigma, rate, steps)], delta=DELTA) <= target


def test_more_steps_cost_more_and_order_does_not_matter() -> None:
    a, b = Steps(2.0, 0.1, 10), Steps(1.5, 0.2, 5)
    assert epsilon([], delta=DELTA) == epsilon_rdp([], delta=DELTA) == 0
    assert epsilon([a], delta=DELTA) < epsilon([a, b], delta=DELTA) == epsilon([b, a], delta=DELTA)
    assert epsilon([a, a], delta=DELTA) == epsilon([Steps(2.0, 0.1, 20)], delta=DELTA)


@pytest.mark.slow
def test_steps_of_many_kinds_are_not_composed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: each round asks for another noise multiplier, costs nothing, and makes all later rounds slower."""
    composed, composed_by_opacus = [], PRVAccountant.get_epsilon

    def counting(accountant: PRVAccountant, *arguments: float, **named: float) -> float:
        composed.append(len(accountant.history))
        return float(composed_by_opacus(accountant, *arguments, **named))

    monkeypatch.setattr(accounting, "MOST_KINDS", 2)
    monkeypatch.setattr(PRVAccountant, "get_epsilon", counting)
    costly, cheap = [Steps(2.0, 0.5, 11), Steps(3.0, 0.5, 11)], [Steps(9000.0 + n, 0.5, 1) for n in range(9)]
    alone, together = epsilon(costly, delta=DELTA), epsilon([*costly, *cheap], delta=DELTA)
    assert alone < together < 1.02 * alone
    assert composed == [2, 2]
    equal = [Steps(sigma, 0.5, 10) for sigma in (4.0, 5.0, 6.0)]
    assert epsilon_pld(equal) < epsilon(equal, delta=DELTA) <= epsilon_rdp(equal, delta=DELTA)


@pytest.mark.slow  # seconds of CPU
def test_many_steps_of_a_small_cost_take_a_coarser_grid_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: a request within all limits whose grid takes gigabytes and minutes, each time it is charged."""
    grids, discretized_by_opacus = list[int](), prv.discretize

    def counting(one: object, domain: Domain) -> object:
        grids.append(domain.size)
        return discretized_by_opacus(one, domain)

    monkeypatch.setattr(prv, "discretize", counting)
    million = [Steps(300.0, 0.5, 10**6)]  # epsilon 8
    truth = epsilon_pld(million)
    assert 0.998 * truth < epsilon(million, delta=DELTA) < 1.02 * truth
    assert 0.9 * MOST_POINTS < sum(grids) < 1.1 * MOST_POINTS
    grids.clear()
    small = [Steps(9000.0, 0.5, 100_000)]
    assert epsilon(small, delta=DELTA) >= epsilon_rdp(small, delta=DELTA)
    assert 0 < epsilon([Steps(9000.0 + n, 0.5, 10_000) for n in range(8)], delta=DELTA) < 0.1
    assert calibrate(0.01, delta=DELTA, lot_rate=0.5, steps=4000) > 8000
    assert not grids


def test_a_void_guarantee_is_a_large_number_at_once() -> None:
    assert 1e4 < epsilon([Steps(0.05, 0.9, 10_000)], delta=DELTA) < math.inf


@pytest.mark.parametrize(
    "steps", [(0.0, 0.1, 1), (-1.0, 0.1, 1), (math.nan, 0.1, 1), (math.inf, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.1, 1)]
)
def test_steps_without_a_guarantee_are_refused(steps: tuple[float, float, int]) -> None:
    with pytest.raises(PrivacyError, match="no privacy guarantee"):
        epsilon([Steps(*steps)], delta=DELTA)
    with pytest.raises(PrivacyError, match="no privacy guarantee"):
        epsilon_rdp([Steps(1.0, 0.1, 0)], delta=DELTA)


def test_impossible_targets_are_refused() -> None:
    with pytest.raises(PrivacyError, match="fewer steps"):
        calibrate(1e-6, delta=DELTA, lot_rate=1.0, steps=10_000)
    with pytest.raises(PrivacyError, match="positive"):
        calibrate(0.0, delta=DELTA, lot_rate=0.1, steps=10)
    with pytest.raises(PrivacyError, match="delta"):
        epsilon([Steps(1.0, 0.1, 1)], delta=1.0)
