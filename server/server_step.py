"""The server's step: the replies of one round and the weights that were sent give the next weights."""

from collections.abc import Sequence

import numpy as np

from agi_core.config.schema import FederationConfig
from agi_core.protocol import Weights
from server.aggregation import Averages, SiteUpdate, aggregate

Velocity = Averages
SQUARES = "squares/"
BETA_1, BETA_2, TAU = 0.9, 0.99, 1e-3


def next_weights(
    sent: Weights, updates: Sequence[SiteUpdate], *, velocity: Velocity, config: FederationConfig
) -> tuple[Weights, Velocity]:
    """The next global weights, and the server momentum's new state (empty for plain FedAvg).

    FedAvgM (Hsu et al. 2019): v <- momentum * v + (mean - sent);  weights <- sent + server_learning_rate * v, where the
    mean may be any aggregate of `server.aggregation`. FedAdam (Reddi et al., ICLR 2021, Algorithm 2), with d = mean -
    sent: m <- 0.9 m + 0.1 d;  u <- 0.99 u + 0.01 d^2;  weights <- sent + server_learning_rate * m / (sqrt(u) + 1e-3).
    Its state is m by the names of the weights, and u by these names behind `SQUARES`.

    Raises:
        RunError: too few replies for the aggregation.
    """
    mean = aggregate(updates, config=config)
    plain = config.server_optimizer == "sgd" and config.server_momentum == 0 and config.server_learning_rate == 1
    if plain:
        return {name: mean[name].astype(sent[name].dtype) for name in sent}, {}
    if config.server_optimizer == "adam":
        return _adam(sent, mean, state=velocity, learning_rate=config.server_learning_rate)
    moved: Velocity = {
        name: config.server_momentum * velocity.get(name, np.float64(0)) + (mean[name] - sent[name].astype(np.float64))
        for name in sent
    }
    weights = {name: (sent[name] + config.server_learning_rate * moved[name]).astype(sent[name].dtype) for name in sent}
    return weights, moved if config.server_momentum else {}


def _adam(sent: Weights, mean: Averages, *, state: Velocity, learning_rate: float) -> tuple[Weights, Velocity]:
    zero = np.float64(0)
    weights: Weights = {}
    moved: Velocity = {}
    for name, array in sent.items():
        change = mean[name] - array.astype(np.float64)
        m = BETA_1 * state.get(name, zero) + (1 - BETA_1) * change
        u = BETA_2 * state.get(SQUARES + name, zero) + (1 - BETA_2) * change**2
        weights[name] = (array + learning_rate * m / (np.sqrt(u) + TAU)).astype(array.dtype)
        moved |= {name: m, SQUARES + name: u}
    return weights, moved
