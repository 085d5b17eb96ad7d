"""Averaging: the replies of one round and the weights that were sent give the next weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agi_core.config import FederationConfig
from agi_core.protocol import Weights

Velocity = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class SiteUpdate:
    """One accepted reply: the site's weights after training, its training subjects, and its metrics."""

    site: str
    weights: Weights
    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)


def federated_average(updates: Sequence[SiteUpdate]) -> Velocity:
    """Mean of the sites' weights, weighted by training subjects (FedAvg, McMahan et al. 2017, Algorithm 1), in float64.

    Updates are summed in the order of site names, so that the result does not depend on which site answered first.
    """
    ordered = sorted(updates, key=lambda update: update.site)
    total = sum(update.num_examples for update in ordered)
    mean = {name: np.zeros(array.shape) for name, array in ordered[0].weights.items()}
    for update in ordered:
        for name, array in update.weights.items():
            mean[name] += array.astype(np.float64) * (update.num_examples / total)
    return mean


def next_weights(
    sent: Weights,
    updates: Sequence[SiteUpdate],
    *,
    velocity: Mapping[str, NDArray[np.float64]],
    config: FederationConfig,
) -> tuple[Weights, Velocity]:
    """The next global weights, and the server momentum's new state (empty for plain FedAvg).

    FedAvgM (Hsu et al. 2019): v <- momentum * v + (mean - sent);  weights <- sent + server_learning_rate * v.
    """
    mean = federated_average(updates)
    if config.server_momentum == 0 and config.server_learning_rate == 1:
        return {name: mean[name].astype(sent[name].dtype) for name in sent}, {}
    moved: Velocity = {
        name: config.server_momentum * velocity.get(name, np.float64(0)) + (mean[name] - sent[name].astype(np.float64))
        for name in sent
    }
    weights = {name: (sent[name] + config.server_learning_rate * moved[name]).astype(sent[name].dtype) for name in sent}
    return weights, moved if config.server_momentum else {}
