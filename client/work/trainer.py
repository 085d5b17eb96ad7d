"""What a site does with a request: check it against the site's rules, load its weights, then train or evaluate."""

import logging
import math
import time
from collections.abc import Mapping, Sequence

import torch

from agi_core.config.schema import Task
from agi_core.errors import PolicyError, ProtocolError
from agi_core.keys import KeyTable, rounds_alone
from agi_core.pooled_errors import without_layer
from agi_core.protocol import (
    ALONE,
    BLEND,
    DISAGREEMENT,
    ERROR,
    ERROR_COUNTS,
    ERROR_STATISTICS,
    EVALUATE,
    KEYS,
    LAST_LAYER,
    LAYER_STATISTICS,
    RANGE,
    REGRESSION_OF_ALL,
    REGRESSIONS,
    TRAIN,
    Reply,
    Request,
    Weights,
    pack,
    unpack,
)
from agi_core.run import progress
from agi_core.secure_sum import change
from agi_core.training import train_round
from client.border import secure_sum
from client.site.opened import OpenSite
from client.site.policy import check_task, require
from client.work.alone import train_alone
from client.work.blending import tell_blend, tell_disagreement, tell_error
from client.work.closed_form import over_own_prior
from client.work.evaluation import evaluate, told_among, validate
from client.work.job import Job
from client.work.known_range import tell_range
from client.work.last_layer import tell_last_layer, tell_layer_statistics
from client.work.networks import network_of
from client.work.pooled_errors import tell_error_counts, tell_error_statistics
from client.work.regressions import tell_regression_of_all, tell_regressions

log = logging.getLogger("client")


def answer(site: OpenSite, request: Request, task: Task, *, device: torch.device) -> Reply:
    """Train or evaluate as asked, or tell a key for a secure sum; `task` is the request's.

    Raises:
        PolicyError: the site's own rules do not allow it.
        AgiError: the request does not fit this site's data, configuration or model.
    """
    check_task(task, site.file.policy)
    _check_round(request, task)
    if request.action == EVALUATE and request.subjects.startswith((DISAGREEMENT, BLEND)):  # it brings several models
        tell = tell_blend if request.subjects.startswith(BLEND) else tell_disagreement
        return tell(site, request, task, device=device)
    if request.action == TRAIN:
        alone = site.file.policy.secure_sum_with is not None and not request.secure_sum
        require(not alone, "policy.secure_sum_with", asked="the update alone", allowed="it in a secure sum")
    if request.action == TRAIN and request.subjects == KEYS:
        return Reply(
            run_id=request.run_id,
            round=request.round,
            nonce=request.nonce,
            num_examples=0,
            metrics={},
            weights=secure_sum.tell_key(site.file, request),
        )
    if request.secure_sum:
        secure_sum.check_participants(site.file, request)
    private = task.privacy.on or site.file.privacy is not None
    network = network_of(task, device, compiled=site.file.compile and not private)
    network.load_packed(without_layer(request.weights) if request.subjects == ERROR_COUNTS else request.weights)
    job = Job(request=request, task=task, site=site.file, scans=site.scans(task), network=network)
    if request.action == TRAIN:
        return _train_privately(job) if job.private else _train(job)
    if request.action == EVALUATE:
        answers = {
            ALONE: train_alone,
            ERROR: tell_error,
            ERROR_STATISTICS: tell_error_statistics,
            ERROR_COUNTS: tell_error_counts,
            RANGE: tell_range,
            LAST_LAYER: tell_last_layer,
            LAYER_STATISTICS: tell_layer_statistics,
            REGRESSIONS: tell_regressions,
            REGRESSION_OF_ALL: tell_regression_of_all,
        }
        return answers.get(request.subjects, evaluate)(job)
    raise ProtocolError(f"no request is called {request.action} {request.subjects}")


def _check_round(request: Request, task: Task) -> None:
    """Raise ProtocolError unless the task has such a round: by its number go the rates of the steps
    (`agi_core.schedule`). What is evaluated may come before the first round and after the last: a site that trains
    alone is asked once more than that takes rounds."""
    first, last = (1, task.rounds) if request.action == TRAIN else (0, task.rounds + rounds_alone(task) + 1)
    if not first <= request.round <= last:
        raise ProtocolError(
            f"the task has rounds 1 to {task.rounds}, and the request to {request.action} is of round {request.round}"
        )


def _train(job: Job) -> Reply:
    started = time.monotonic()
    training = job.scans.training
    metrics = validate(job)
    phase = f"round {job.request.round}/{job.task.rounds}"
    with over_own_prior(job):
        losses = train_round(
            job.network.module,
            training.draw,
            task=job.task,
            site=secure_sum.drawn_as(job.site, job.request),
            round=job.request.round,
            on_step=progress.steps_of(phase, job.site.site),
        )
    metrics |= _train_loss(job, losses)
    metrics["seconds"] = time.monotonic() - started
    return _told(job, job.network.weights, subjects=len(job.scans.subjects.train), metrics=metrics)


def _told(job: Job, weights: Weights, *, subjects: int, metrics: Mapping[str, float]) -> Reply:
    """The reply with these weights. In a secure sum they are masked, and so is how many subjects they count for."""
    request = job.request
    if not request.secure_sum:
        packed = pack(weights, request.weights.transport)
        return job.reply(num_examples=subjects, metrics=metrics, weights=packed)
    sent = unpack(request.weights)
    keys = KeyTable.of(job.task, {name: array.ndim for name, array in sent.items()})
    update = change(weights, sent, names=sorted(keys.shared))
    packed = secure_sum.mask(job.site, request, update=update, subjects=subjects)
    return job.reply(num_examples=0, metrics=metrics, weights=packed)


def _train_loss(job: Job, losses: Sequence[float]) -> dict[str, float]:
    """The mean loss, over whole groups of steps: each has as many crops as the policy asks subjects for, so that a
    round of one step more shows as many. Nothing where there is no such group, or where the training subjects are not
    those that the site tells of."""
    least = job.site.policy.minimum_subjects
    together = math.ceil(least / job.task.training.batch_size)
    counted = losses[: len(losses) // together * together]
    drawn = {*job.scans.training.subjects}
    try:
        if counted and told_among(job, "train", drawn) == drawn:
            return {"train_loss": sum(counted) / len(counted)}
    except PolicyError as error:
        log.warning("no training loss: %s", error)
    job.held_back.append("train_loss")
    return {}


def _train_privately(job: Job) -> Reply:
    """Weights and the site's public number of subjects; no metric of training; of validation noisy ones or none."""
    from client.work.private_training import train_privately  # here, because Opacus takes seconds to import

    privacy = job.privacy
    training = job.scans.training  # unusable scans are named before anything is spent
    metrics: dict[str, float] = {}
    weights = train_privately(
        job,
        privacy,
        training=training,
        validate=lambda: metrics.update(validate(job)),
        on_step=progress.steps_of(f"round {job.request.round}/{job.task.rounds}", job.site.site),
    )
    # what rounding and masks do to them comes after the noise: it costs no privacy
    return _told(job, weights, subjects=privacy.subjects, metrics=metrics)
