"""Validation figures of a site that trains privately, at most once per model of a run.

The Gaussian mechanism on a mean: each of a subject's k figures is clipped to its public range and scaled to [-1, 1], so
that one subject moves the sum of these vectors by at most sqrt(k). The sum gets noise of sigma sqrt(k), and is divided
by a public number of subjects; a subject without the figure counts as the middle of its range. One such release is one
private step with lot rate 1, charged to the validation subjects in a ledger of their own. A subject's figures may
depend on no other subject, nor may the slices that they are of.
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping

import numpy as np

from agi_core.errors import BudgetError
from agi_core.privacy.accounting import Steps
from agi_core.privacy.ledger import Budget
from agi_core.privacy.noise import NoiseSource
from agi_core.protocol import TRAIN, Request
from client.border import stored_replies
from client.site.file import Site
from client.site.policy import PrivateValidation
from client.work.site_ledger import open_site_ledger

log = logging.getLogger("client")
SubjectMetrics = Mapping[str, Mapping[str, float]]  # {subject id: {metric: value}}


def validate_privately(
    score: Callable[[], SubjectMetrics],
    *,
    site: Site,
    validation: PrivateValidation,
    request: Request,
    subjects: Collection[str],
    noise: NoiseSource,
) -> dict[str, float]:
    """{metric: noisy mean} of the model that the request brings; {} where it was told before, or the budget is spent.

    Args:
        score: gives each validation subject's figures; called after the reservation. If it fails, nobody has figures.
        subjects: all that the validation subjects are known by.

    Raises:
        PrivacyError: the ledger cannot be trusted.
    """
    model_round = request.round - 1 if request.action == TRAIN else request.round
    with open_site_ledger(site, validation) as ledger:
        if ledger.find(request.run_id, model_round):
            return {}
        try:
            reservation = ledger.reserve(
                subjects,
                Steps(validation.noise_multiplier, 1.0, 1),
                run=request.run_id,
                round=model_round,
                request=stored_replies.digest(request),
                budget=Budget(validation.epsilon, validation.delta),
            )
        except BudgetError as error:
            log.warning("no validation: %s", error)
            return {}
        try:
            scores = score()
        except Exception:  # a failure would tell of the subjects; noise alone does not
            log.exception("the validation failed; its figures are noise alone")
            scores = {}
        means = noisy_means(scores, validation, noise)
        ledger.commit(reservation, reply="")
    return means


def noisy_means(scores: SubjectMetrics, validation: PrivateValidation, noise: NoiseSource) -> dict[str, float]:
    """The mechanism itself; see the module. The result lies in the public ranges."""
    ranges = np.array([validation.metrics[name] for name in sorted(validation.metrics)])
    middle, half = ranges.mean(axis=1), (ranges[:, 1] - ranges[:, 0]) / 2
    total = validation.noise_multiplier * math.sqrt(len(ranges)) * noise.normal(len(ranges))
    for figures in scores.values():
        values = np.array([figures.get(name, math.nan) for name in sorted(validation.metrics)])
        total += np.clip(np.nan_to_num((values - middle) / half, nan=0.0), -1, 1)
    means = middle + half * np.clip(total / validation.subjects, -1, 1)
    return dict(zip(sorted(validation.metrics), means.tolist(), strict=True))
