"""Aggregation: one value per weight from the updates of a round, in float64 and in the order of site names.

Of n updates, f = max(1, ceil(hostile_share n)) may be hostile. `RULES` lists what can be chosen, each with its
paper and with the fewest updates for f. Only the mean is weighted by training subjects: a count is a claim of the site,
and the others must not depend on claims. One hostile site can decide the mean.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agi_core.config.schema import FederationConfig
from agi_core.errors import ConfigError, RunError
from agi_core.protocol import Weights
from agi_core.secure_sum import FEWEST

Averages = dict[str, NDArray[np.float64]]
BLOCK = 2**22  # values of all sites together that a rule sees at a time: 32 MiB


@dataclass(frozen=True)
class SiteUpdate:
    """One accepted reply: the site's weights after training, its training subjects, its metrics, and the names of those
    that its policy suppresses, separated by commas. Of the change from `sent` to `weights`, the part `kept` counts."""

    site: str
    weights: Mapping[str, NDArray[Any]]
    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    suppressed: str = ""
    sent: Weights = field(default_factory=dict)
    kept: float = 1.0

    def values(self, name: str, part: slice = slice(None)) -> NDArray[np.float64]:
        """The values of a parameter, or a part of them: float64 (n,)."""
        flat: NDArray[Any] = self.weights[name].reshape(-1)[part]
        if self.kept == 1:
            return flat.astype(np.float64)
        sent = self.sent[name].reshape(-1)[part]
        change = np.subtract(flat, sent, dtype=np.float64)
        kept: NDArray[Any] = (sent + self.kept * change).astype(sent.dtype)
        return kept.astype(np.float64)


def aggregate(updates: Sequence[SiteUpdate], *, config: FederationConfig) -> Averages:
    """What the round's updates agree on, by `config.aggregation`.

    Raises:
        RunError: fewer updates than the rule needs; it would silently be the plain mean, or no estimate at all.
    """
    ordered = sorted(updates, key=lambda update: update.site)
    rule, f = RULES[config.aggregation], hostile_sites(config, replies=len(ordered))
    if len(ordered) < (least := rule.least(f)):
        raise RunError(
            f"{config.aggregation} needs {least} replies to withstand {f} hostile, and {len(ordered)} were accepted"
        )
    return rule.combine(ordered, f)


def check_sites(config: FederationConfig) -> None:
    """Raise ConfigError when a round of these sites, down to the quorum, could have too few replies."""
    count = len(config.sites)
    fewest = config.quorum or count
    if fewest > count:
        raise ConfigError(f"federation.quorum={fewest} is more than the {count} training sites")
    if config.secure_sum and fewest < FEWEST:
        raise ConfigError(
            f"federation.secure_sum=true needs {FEWEST} sites in every round, and with {count} training sites a round"
            f" may have {fewest}; take more sites, or raise federation.quorum"
        )
    for replies in range(fewest, count + 1):
        least = RULES[config.aggregation].least(hostile_sites(config, replies=replies))
        if replies < least:
            others = ", ".join(f"{name} {other.least(1)}" for name, other in RULES.items() if other.least(1) > 1)
            raise ConfigError(
                f"federation.aggregation={config.aggregation} needs {least} replies, and with {count} training sites a"
                f" round may have {replies}; take more sites, raise federation.quorum, or use an aggregation that needs"
                f" fewer; for one hostile site: {others}"
            )


def hostile_sites(config: FederationConfig, *, replies: int) -> int:
    """f = max(1, ceil(hostile_share n)) of n replies."""
    return max(1, math.ceil(config.hostile_share * replies - 1e-9))  # 0.1 * 30 is a little above 3


def _weighted_mean(updates: Sequence[SiteUpdate], f: int) -> Averages:
    """Weighted by training subjects."""
    total = sum(update.num_examples for update in updates)
    mean: Averages = {}
    for name, array in updates[0].weights.items():
        flat = np.zeros(array.size)
        for update in updates:
            flat += update.values(name) * (update.num_examples / total)
        mean[name] = flat.reshape(array.shape)
    return mean


def _trimmed_mean(updates: Sequence[SiteUpdate], f: int) -> Averages:
    """Per coordinate, without the f lowest and the f highest values."""
    return _per_coordinate(updates, lambda stack: np.sort(stack, axis=0)[f : len(stack) - f].mean(axis=0))


def _median(updates: Sequence[SiteUpdate], f: int) -> Averages:
    """Per coordinate."""
    return _per_coordinate(updates, lambda stack: np.asarray(np.median(stack, axis=0)))


def _krum(updates: Sequence[SiteUpdate], f: int) -> Averages:
    """The one update that is nearest to its n-f-2 nearest others."""
    chosen = updates[_most_central(_distances(updates), f)]
    return {name: chosen.values(name).reshape(array.shape) for name, array in chosen.weights.items()}


def _bulyan(updates: Sequence[SiteUpdate], f: int) -> Averages:
    """Krum picks n-2f updates, one after the other; per coordinate, the mean of the n-4f values that are nearest to
    their median."""
    distances, left = _distances(updates), list(range(len(updates)))
    chosen: list[int] = []
    while len(chosen) < len(updates) - 2 * f:
        chosen.append(left.pop(_most_central(distances[np.ix_(left, left)], f)))

    def middle(stack: NDArray[np.float64]) -> NDArray[np.float64]:
        order = np.argsort(np.abs(stack - np.median(stack, axis=0)), axis=0, kind="stable")
        return np.asarray(np.take_along_axis(stack, order[: len(stack) - 2 * f], axis=0).mean(axis=0))

    return _per_coordinate([updates[i] for i in sorted(chosen)], middle)


@dataclass(frozen=True)
class AggregationRule:
    """`combine(updates, f)` withstands f hostile updates if there are at least `least(f)`. Updates are in the order of
    site names."""

    least: Callable[[int], int]
    combine: Callable[[Sequence[SiteUpdate], int], Averages]


RULES = {
    "mean": AggregationRule(lambda f: 1, _weighted_mean),  # FedAvg: McMahan et al. 2017, Algorithm 1
    "trimmed_mean": AggregationRule(lambda f: 2 * f + 1, _trimmed_mean),  # Yin et al. 2018, Definition 2
    "median": AggregationRule(lambda f: 2 * f + 1, _median),  # Yin et al. 2018, Definition 1
    "krum": AggregationRule(lambda f: 2 * f + 3, _krum),  # Blanchard et al. 2017, equation 3
    "bulyan": AggregationRule(lambda f: 4 * f + 3, _bulyan),  # El Mhamdi et al. 2018, Algorithm 2
}
"""A new rule is one entry here, and its name in `agi_core.config.schema.Aggregation`."""


def _per_coordinate(
    updates: Sequence[SiteUpdate], estimate: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Averages:
    """`estimate` gives (n,) from (sites, n)."""
    result = {name: np.empty(array.size) for name, array in updates[0].weights.items()}
    for name, part, stack in _blocks(updates):
        result[name][part] = estimate(stack)
    return {name: result[name].reshape(array.shape) for name, array in updates[0].weights.items()}


def _distances(updates: Sequence[SiteUpdate]) -> NDArray[np.float64]:
    """Squared Euclidean distances (n, n) between the replies, all parameters as one vector: |a|^2 + |b|^2 - 2 a.b.

    It is computed around the median, whose place no few sites decide. Elsewhere rounding could hide small distances.
    """
    gram = np.zeros((len(updates), len(updates)))
    for _, _, stack in _blocks(updates):
        stack -= np.median(stack, axis=0)
        gram += stack @ stack.T
    squares = np.diagonal(gram)
    distances: NDArray[np.float64] = np.maximum(squares[:, None] + squares - 2 * gram, 0)
    return distances


def _blocks(updates: Sequence[SiteUpdate]) -> Iterator[tuple[str, slice, NDArray[np.float64]]]:
    """(parameter, part of its values, those of all sites: (sites, n)), at most `BLOCK` values at a time."""
    width = max(1, BLOCK // len(updates))
    for name, array in updates[0].weights.items():
        for start in range(0, array.size, width):
            part = slice(start, min(start + width, array.size))
            yield name, part, np.stack([update.values(name, part) for update in updates])


def _most_central(distances: NDArray[np.float64], f: int) -> int:
    """The row whose n-f-2 nearest others are nearest to it. Of equal rows it is the first. Bulyan gets down to n < f+3:
    then one neighbour counts."""
    n = len(distances)
    neighbours = max(1, n - f - 2)
    scores = [np.sort(np.delete(distances[i], i))[:neighbours].sum() for i in range(n)]
    return int(np.argmin(scores))
