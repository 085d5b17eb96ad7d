"""The statistics of a network's last, linear layer on some sessions: what `agi_core.ridge` solves it from."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor

from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import evaluation_slices, subset_of_each
from agi_core.network import Network
from agi_core.ridge import Statistics, Vector, adopted, solve_own

SLICES, SLICES_OF_ALL = 4, 12
"""Of each subject, and of all subjects together, at least. Aligning a slice costs about as much as a training step on a
crop, but four slices of a site's only subject tell little of its scanner."""


def readout_statistics(
    network: Network, sessions: Iterable[CachedSession], *, prior_alone: bool = False, independent: bool = False
) -> dict[str, Statistics]:
    """{subject id: statistics over slices with a head}: of all features of the network with its present weights, or of
    its prior's alone, which depend on no weights. Subjects without such a slice, who are not trained on either, are
    left out.

    Args:
        independent: each subject's statistics depend on no other subject, as a private step needs: SLICES slices of
            each, however few there are.
    """
    sessions = [*sessions]
    subjects = len({session.subject_id for session in sessions})
    limit = SLICES if independent else max(SLICES, math.ceil(SLICES_OF_ALL / max(1, subjects)))
    return {
        subject_id: _over_slices(network, slices, prior_alone=prior_alone)
        for subject_id, slices in subset_of_each(sessions, limit=limit, volumes=network.volumetric).items()
        if slices
    }


def own_readout(
    network: Network, sessions: Sequence[CachedSession], *, prior_statistics: Mapping[str, Statistics] | None = None
) -> Vector:
    """The last layer of a site for the network with its present weights, from the site's training sessions.

    It is shrunk to the common last layer over the site's own prior. The network is left as it was.

    Args:
        prior_statistics: those of the sessions, where they are known.
    """
    towards = network.readout
    if network.prior is not None:
        known = prior_statistics or readout_statistics(network, sessions, prior_alone=True)
        towards = _over_own_prior(network, [*known.values()])
    return solve_own([*readout_statistics(network, sessions).values()], towards=towards)


def newcomers_readout(network: Network, subjects: Sequence[Statistics]) -> tuple[Vector, float]:
    """The last layer of a hospital that took no part, from the statistics of its subjects over all features, and how
    much of the way from the common one to theirs it goes; see `agi_core.ridge.adopted`. The network is left as it was.
    """
    common = towards = network.readout
    if network.prior is not None:
        towards = _over_own_prior(network, [one.of_first(len(network.prior)) for one in subjects])
    return adopted(solve_own(subjects, towards=towards), subjects, common=common)


def _over_own_prior(network: Network, subjects: Sequence[Statistics]) -> Vector:
    """The common last layer over the prior of these subjects, whose statistics are of its monomials."""
    prior = network.prior
    assert prior is not None  # noqa: S101  the caller has looked
    network.set_prior(solve_own(subjects, towards=prior))
    readout = network.readout
    network.set_prior(prior)
    return readout


def _over_slices(
    network: Network, slices: Sequence[tuple[CachedSession, Sequence[int]]], *, prior_alone: bool
) -> Statistics:
    gram, moment, energy, voxels = np.zeros(()), np.zeros(()), 0.0, 0
    for session, indices in slices:
        size = len(indices) if network.volumetric else SLICES  # a volume is seen whole
        for batch in evaluation_slices(session, batch_size=size, indices=indices, neighbours=network.neighbours):
            features, target = features_and_target(network, batch.sources, batch.target, prior_alone=prior_alone)
            gram = gram + (features @ features.T).numpy()
            moment = moment + (features @ target).numpy()
            energy, voxels = energy + float(target @ target), voxels + len(target)
    return Statistics(gram / voxels, moment / voxels, energy / voxels)


def features_and_target(
    network: Network, sources: Tensor, target: Tensor, *, prior_alone: bool = False
) -> tuple[Tensor, Tensor]:
    """Voxels of a batch of slices, float64: (F, N) and (N,). Where the task aligns the target, those that were imaged
    on the reference."""
    features = network.features(sources, prior_alone=prior_alone).double().movedim(1, 0).flatten(1)
    if network.on_reference is None:
        return features, target.double().flatten()
    aligned, imaged = network.on_reference(sources, target)
    return features[:, imaged.flatten()], aligned[imaged].double()
