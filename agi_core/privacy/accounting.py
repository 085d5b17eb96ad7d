"""What a history of private steps has cost: epsilon at a given delta, and the noise that a budget needs.

A guarantee of (epsilon, delta) means: for any two data sets that differ in one subject, with probabilities P and P',
and for any set S of results, P(result in S) <= e^epsilon P'(result in S) + delta. Steps compose over rounds, runs and
restarts, so epsilon is a function of the *whole* history of a site. Sites hold different people, so a federation's
epsilon is the largest of its sites', never a mean. Both accountants are Opacus's, for the Poisson-subsampled Gaussian
mechanism:

    PRV  numerical composition of privacy loss random variables (Gopi, Lee, Wutschitz 2021); the upper bound of its
         error interval, within 1 % of the truth (see `epsilon` for when it is not)
    RDP  Renyi differential privacy (Mironov 2017; conversion of Balle et al. 2020); looser, and never below the truth
"""

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

from agi_core.errors import PrivacyError

LARGE_ORDERS = (96, 128, 192, 256, 384, 512, 1024)  # for epsilon below 1
COARSE_ORDERS = (*range(2, 65), *LARGE_ORDERS)
ORDERS = (*RDPAccountant.DEFAULT_ALPHAS, *LARGE_ORDERS)
LARGEST_PRV_EPSILON = 64.0
"""Above it the RDP bound is returned. The numerical composition would need gigabytes there, only to tell one worthless
guarantee from another."""
MOST_POINTS = 2 * 10**6
"""Of all grids of a numerical composition together, one for each kind of steps. They grow with the root of the number
of steps and with 1 / epsilon, and whoever asks for steps chooses both; so many take seconds, and less than 1 GB. Where
more would be needed, the composition is coarser, down to an error of `COARSEST`. Beyond, the RDP bound is returned."""
COARSEST = 0.02  # of epsilon
MOST_KINDS = 8
"""Of steps, by noise multiplier and lot rate, that are composed by PRV. Each takes half a second whenever epsilon is
asked for, and whoever asks for steps chooses their kind."""
REST = 0.01  # of delta, for the steps of all other kinds


class Steps(NamedTuple):
    """`steps` private steps with noise multiplier sigma (above 0) and lot rate q (0 to 1)."""

    noise_multiplier: float
    lot_rate: float
    steps: int


def epsilon(history: Iterable[Steps], *, delta: float) -> float:
    """Epsilon of all steps together, by PRV: an upper bound, at most 1 % above the truth; 0 for an empty history.

    It is looser for many steps of a small cost, whose composition is coarser (`MOST_POINTS`), or left to RDP
    (`COARSEST`, `LARGEST_PRV_EPSILON`). With more than `MOST_KINDS` kinds of steps it is the costliest by PRV at nearly
    all of delta, plus the rest by RDP at what remains (basic composition), or all by RDP, whichever is lower.

    Raises:
        PrivacyError: a value for which there is no guarantee, such as no noise.
    """
    merged, delta = _merged(history), _checked_delta(delta)
    if len(merged) <= MOST_KINDS:
        return _prv(merged, delta)
    by_cost = sorted(merged, key=lambda kind: kind.lot_rate * math.sqrt(kind.steps) / kind.noise_multiplier)
    rest, costly = (tuple(sorted(part)) for part in (by_cost[:-MOST_KINDS], by_cost[-MOST_KINDS:]))
    apart = _prv(costly, (1 - REST) * delta) + _rdp(rest, REST * delta, COARSE_ORDERS)
    return min(apart, _rdp(merged, delta, ORDERS))


def epsilon_rdp(history: Iterable[Steps], *, delta: float) -> float:
    """Epsilon of all steps together, by RDP: an upper bound, looser than `epsilon`. Raises PrivacyError like it."""
    return _rdp(_merged(history), _checked_delta(delta), ORDERS)


@lru_cache(maxsize=64)
def calibrate(
    target_epsilon: float, *, delta: float, lot_rate: float, steps: int, besides: tuple[Steps, ...] = ()
) -> float:
    """The smallest noise multiplier, to 0.5 %, with which `steps` steps, and all that is taken `besides`, cost at most
    `target_epsilon`.

    Raises:
        PrivacyError: a value out of range, or no noise multiplier up to 10^4 is enough.
    """
    if not 0 < target_epsilon < math.inf:
        raise PrivacyError(f"epsilon={target_epsilon} must be a positive number")

    def cost(sigma: float) -> float:
        return epsilon([Steps(sigma, lot_rate, steps), *besides], delta=delta)

    enough = 0.25
    while (
        _rdp(_merged([Steps(enough, lot_rate, steps), *besides]), _checked_delta(delta), COARSE_ORDERS) > target_epsilon
    ):
        enough *= 1.2  # enough by RDP is enough by PRV
        if enough > 1e4:
            raise PrivacyError(
                f"no noise is enough for epsilon {target_epsilon:.3g}, planned for {steps} of the private steps: give a"
                " larger privacy.epsilon, or ask for fewer steps"
            )
    too_little = enough / 1.3
    while (above := cost(too_little)) <= target_epsilon and too_little > 1e-2:
        enough, too_little = too_little, too_little / 1.3
    below = cost(enough)
    while enough > 1.005 * too_little:  # false position: log epsilon is nearly a straight line in log sigma
        part = math.log(above / target_epsilon) / math.log(above / below)
        guess = 1.001 * too_little * (enough / too_little) ** part
        sigma = min(max(guess, 1.002 * too_little), enough / 1.0045)
        if (value := cost(sigma)) <= target_epsilon:
            enough, below = sigma, value
        else:
            too_little, above = sigma, value
    return enough


def _merged(history: Iterable[Steps]) -> tuple[Steps, ...]:
    """Steps of one kind as one entry, in a fixed order: the cost of a composition does not depend on the order."""
    totals: dict[tuple[float, float], int] = {}
    for sigma, rate, steps in history:
        if not (0 < sigma < math.inf and 0 < rate <= 1 and steps >= 1):
            raise PrivacyError(
                f"{steps} steps with noise multiplier {sigma} and lot rate {rate} have no privacy guarantee: the noise"
                " must be a positive number, the rate a probability above 0, the steps at least 1"
            )
        totals[sigma, rate] = totals.get((sigma, rate), 0) + steps
    return tuple(Steps(sigma, rate, steps) for (sigma, rate), steps in sorted(totals.items()))


def _checked_delta(delta: float) -> float:
    if not 0 < delta < 1:
        raise PrivacyError(f"delta={delta} must lie between 0 and 1, and well below 1 / subjects")
    return delta


@lru_cache(maxsize=256)
def _prv(history: tuple[Steps, ...], delta: float) -> float:
    if not history:
        return 0.0
    bound = _rdp(history, delta, COARSE_ORDERS)
    if bound > LARGEST_PRV_EPSILON:
        return bound
    error = min(0.01, 0.005 * bound)
    error *= max(1.0, _points(history, delta=delta, error=error) / MOST_POINTS)
    if error > COARSEST * bound:
        return bound
    accountant = PRVAccountant()
    accountant.history = [tuple(steps) for steps in history]
    with _without_warnings():
        value = float(accountant.get_epsilon(delta=delta, eps_error=error))
    return min(value, bound) if math.isfinite(value) else bound


def _points(history: tuple[Steps, ...], *, delta: float, error: float) -> float:
    """About how many points the grids have by which Opacus composes these steps to within `error` of epsilon: the width
    of its safe domain over its mesh (Gopi, Lee, Wutschitz 2021, Remark 5.6), for each kind."""
    delta_error, steps = delta / 1000, sum(kind.steps for kind in history)
    one_step = [_rdp((kind._replace(steps=1),), delta_error / (8 * steps), COARSE_ORDERS) for kind in history]
    half_width = max(_rdp(history, delta_error / 4, COARSE_ORDERS), *one_step, error) + 3
    mesh = error / math.sqrt(steps * math.log(12 / delta_error) / 2)
    return len(history) * 2 * half_width / mesh


@lru_cache(maxsize=256)
def _rdp(history: tuple[Steps, ...], delta: float, orders: tuple[float, ...]) -> float:
    if not history:
        return 0.0
    total = sum((steps * _curve(sigma, rate, orders) for sigma, rate, steps in history), np.zeros(len(orders)))
    with _without_warnings():
        value, _ = get_privacy_spent(orders=list(orders), rdp=total, delta=delta)
    return float(value)


@lru_cache(maxsize=4096)
def _curve(sigma: float, rate: float, orders: tuple[float, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The Renyi divergence of one step at each order."""
    with _without_warnings():
        return np.asarray(compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=list(orders)))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence two warnings: Opacus's, that more orders might tighten an RDP bound, and NumPy's, of log(1 - q) for q = 1
    in a branch that is masked."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", over="ignore"):
        warnings.filterwarnings("ignore", message="Optimal order", category=UserWarning)
        yield
