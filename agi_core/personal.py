"""A model of a site's own from the common one, made of the site's training subjects alone. It stays at the site."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from agi_core.config.schema import Task
from agi_core.data.datasets import TrainingSlices
from agi_core.keys import FINE_TUNED, KeyTable
from agi_core.network import Network
from agi_core.privacy.trainable import training_only
from agi_core.protocol import Weights
from agi_core.readout import own_readout, readout_statistics
from agi_core.ridge import Statistics, solve_own
from agi_core.training import OnStep, train_round


def own_weights(
    network: Network,
    slices: TrainingSlices,
    *,
    task: Task,
    site: str,
    prior_statistics: Mapping[str, Statistics] | None = None,
    on_step: OnStep | None = None,
) -> Weights:
    """The site's own weights, `KeyTable.personal`, for the network with its common ones, which it keeps.

    `task.personal` norms and finetune train a part of the network for one more round's steps, over the site's own
    prior, with the learning rates of a run of one round. All end with the last layer in closed form.

    Args:
        prior_statistics: those of the training subjects, where they are known.

    Raises:
        RunError: the loss is not finite.
    """
    common = {name: array.copy() for name, array in network.weights.items()}
    try:
        if part := FINE_TUNED.get(task.personal):
            if (common_prior := network.prior) is not None:
                prior_statistics = prior_statistics or readout_statistics(network, slices.sessions, prior_alone=True)
                network.set_prior(solve_own([*prior_statistics.values()], towards=common_prior))
            with training_only(part, network.module):
                one_round = dataclasses.replace(task, rounds=1)
                train_round(network.module, slices.draw, task=one_round, site=site, round=1, on_step=on_step)
            if common_prior is not None:  # what the last layer is shrunk to, over the site's own
                network.set_prior(common_prior)
        network.set_readout(own_readout(network, slices.sessions, prior_statistics=prior_statistics))
        personal = KeyTable.of(task, {name: array.ndim for name, array in common.items()}).personal
        return {name: np.array(network.weights[name]) for name in personal}
    finally:
        network.load(common)
