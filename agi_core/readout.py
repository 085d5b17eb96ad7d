"""The statistics of a network's last, linear layer on some sessions: what `agi_core.ridge` solves it from."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor

from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import WholeSlices, subset_of_each
from agi_core.evaluation import Compared, compared_slices
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
    left out, and those whose target lies where no source was imaged.

    Args:
        independent: each subject's statistics depend on no other subject, as a private step needs: SLICES slices of
            each, however few there are.
    """
    sessions = [*sessions]
    subjects = len({session.subject_id for session in sessions})
    limit = SLICES if independent else max(SLICES, math.ceil(SLICES_OF_ALL / max(1, subjects)))
    found = {
        subject_id: _over_slices(network, slices, prior_alone=prior_alone)
        for subject_id, slices in subset_of_each(sessions, limit=limit, volumes=network.volumetric).items()
    }
    return {subject_id: its for subject_id, its in found.items() if its is not None}


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


def newcomers_readout(commons: Sequence[Network], subjects: Sequence[Statistics]) -> tuple[Vector, float]:
    """The last layer of a hospital that took no part, from the statistics of its subjects over all features, and how
    much of the way from the common one to theirs it goes; see `agi_core.ridge.adopted`. The networks are left as they
    were.

    Args:
        commons: one network with each common last layer that a run has: the solved one, and the one that training ended
            with. The layer that fits these subjects better is the one to start from.
    """
    network = min(commons, key=lambda its: sum(one.mean_square_error(its.readout) for one in subjects))
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
) -> Statistics | None:
    """None where no voxel counts."""

    def compare(batch: WholeSlices) -> Compared:
        return features_and_target(network, batch.sources, batch.target, prior_alone=prior_alone)

    gram, moment, energy, count = np.zeros(()), np.zeros(()), 0.0, 0
    for session, indices in slices:
        for compared in compared_slices(compare, network, session, indices, batch_size=SLICES):
            features, target = voxels(*compared)
            gram = gram + (features @ features.T).numpy()
            moment = moment + (features @ target).numpy()
            energy, count = energy + float(target @ target), count + len(target)
    return Statistics(gram / count, moment / count, energy / count) if count else None


def features_and_target(network: Network, sources: Tensor, target: Tensor, *, prior_alone: bool = False) -> Compared:
    """Features (B, F, h, w) of slices, and their target as in `Network.compared_target`."""
    return network.features(sources, prior_alone=prior_alone), *network.compared_target(sources, target)


def voxels(features: Tensor, target: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Those that count, float64: (F, N) and (N,)."""
    return features.movedim(1, 0)[:, counted[:, 0]].double(), target[counted].double()
