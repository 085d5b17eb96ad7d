"""What a site tells of the errors on its validation subjects (`agi_core.pooled_errors`): statistics, then counts. They
have no noise, so a site that trains privately tells neither. `client.border.egress` has the rules of figures hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agi_core.conformal import count
from agi_core.errors import PolicyError
from agi_core.pooled_errors import COUNTS, layer_in
from agi_core.protocol import CALIBRATION_SUBJECTS, Reply, pack
from agi_core.ridge import Statistics
from agi_core.uncertainty import Sample, expected, sample
from client.work.evaluation import told_among
from client.work.job import Job


def tell_error_statistics(job: Job) -> Reply:
    """The mean over subjects of the statistics of features and error.

    Raises:
        PolicyError: the site trains privately, or no set of these subjects may be told of (`client.site.told`).
    """
    samples = _samples(job)
    return _reply(job, samples, Statistics.mean([one.statistics for one in samples]).arrays() if samples else {})


def tell_error_counts(job: Job) -> Reply:
    """How many voxels of all subjects have an error so large beside the one that the layer of the other sites expects.

    Raises:
        PolicyError: as above. ProtocolError: the request brings no such layer.
    """
    layer = layer_in(job.request.weights, features=job.network.readout.size)
    samples = _samples(job)
    counts = [count(one.error / expected(layer, one.features)) for one in samples]
    return _reply(job, samples, {COUNTS: np.sum(counts, axis=0)} if counts else {})


def _samples(job: Job) -> list[Sample]:
    """Of each validation subject that figures are told of."""
    if job.private:
        raise PolicyError("privacy: errors have no noise, so a site that trains privately tells nothing of them")
    sessions = job.scans.validation
    told = told_among(job, "validation", {session.subject_id for session in sessions})
    return [
        sample(job.network, [session for session in sessions if session.subject_id == subject])
        for subject in sorted(told)
    ]


def _reply(job: Job, samples: Sequence[Sample], arrays: Mapping[str, NDArray[Any]]) -> Reply:
    """Nothing where there are no validation subjects."""
    count = len(samples)
    metrics, weights = ({CALIBRATION_SUBJECTS: count}, pack(arrays)) if count else ({}, None)
    return job.reply(num_examples=count, metrics=metrics, weights=weights)
