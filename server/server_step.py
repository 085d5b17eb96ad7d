"""The server's step: the replies of one round and the weights that were sent give the next weights."""

from collections.abc import Sequence

import numpy as np

from agi_core.config.schema import FederationConfig
from agi_core.protocol import Weights
from server.aggregation import Averages, SiteUpdate, aggregate

Velocity = Averages


def next_weights(
    sent: Weights, updates: Sequence[SiteUpdate], *, velocity: Velocity, config: FederationConfig
) -> tuple[Weights, Velocity]:
    """The next global weights, and the server momentum's new state (empty for plain FedAvg).

    FedAvgM (Hsu et al. 2019): v <- momentum * v + (mean - sent);  weights <- sent + server_learning_rate * v, where the
    mean may be any aggregate of `server.aggregation`.

    Raises:
        RunError: too few replies for the aggregation.
    """
    mean = aggregate(updates, config=config)
    if config.server_momentum == 0 and config.server_learning_rate == 1:
        return {name: mean[name].astype(sent[name].dtype) for name in sent}, {}
    moved: Velocity = {
        name: config.server_momentum * velocity.get(name, np.float64(0)) + (mean[name] - sent[name].astype(np.float64))
        for name in sent
    }
    weights = {name: (sent[name] + config.server_learning_rate * moved[name]).astype(sent[name].dtype) for name in sent}
    return weights, moved if config.server_momentum else {}
