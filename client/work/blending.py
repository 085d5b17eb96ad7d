"""What a site tells for a blend (`agi_core.blend`): how large an expert's errors are on its validation subjects, and
how far apart two experts are; then, at a site that does not train, how good the blend is. Nothing of it has noise, so a
site that trains privately tells none."""

import math
from collections.abc import Collection

import torch

from agi_core import evaluation
from agi_core.blend import Blend, WithGaps
from agi_core.config.schema import Task
from agi_core.errors import PolicyError
from agi_core.experts import read_blend, read_pair
from agi_core.network import Network
from agi_core.protocol import RMS_DISAGREEMENT, RMS_ERROR, Packed, Reply, Request
from agi_core.scenario import parse_scenario
from client.site.opened import OpenSite
from client.work.evaluation import score_everybody, told_validation
from client.work.job import Job


def tell_error(job: Job) -> Reply:
    """The root of the mean over validation subjects of the model's mean squared error.

    Raises:
        PolicyError: the site trains privately, or so few slices are asked for that they tell of few subjects.
    """
    _refuse_private(job)
    return _reply(job, RMS_ERROR, evaluation.squared_error(job.network, told_validation(job)).values())


def tell_disagreement(site: OpenSite, request: Request, task: Task, *, device: torch.device) -> Reply:
    """The same of the difference of two experts, whose weights the request brings, in the pose of the first.

    Raises:
        PolicyError: as `tell_error`. ProtocolError, ConfigError: the request is malformed.
    """
    networks = [_network(*one, device=device) for one in read_pair(request.subjects, request.weights, task)]
    pose, names = networks[0].reference, parse_scenario(task.scenario).modalities
    first, second = (WithGaps(Blend.of([(network, 1.0)], sources=names, pose=pose)) for network in networks)
    job = Job(request=request, task=task, site=site.file, scans=site.scans(task), network=networks[0])
    _refuse_private(job)
    return _reply(job, RMS_DISAGREEMENT, evaluation.disagreement(first, second, told_validation(job)).values())


def tell_blend(site: OpenSite, request: Request, task: Task, *, device: torch.device) -> Reply:
    """The figures of a blend, whose experts' weights the request brings, on all subjects of a site that does not train.

    Raises:
        PolicyError: see `client.work.evaluation.score_everybody`. ProtocolError, ConfigError: the request is malformed.
    """
    experts = [
        (_network(expert, weights, device=device), weight)
        for expert, weights, weight in read_blend(request.subjects, request.weights, task)
    ]
    cell, network = parse_scenario(task.scenario), experts[0][0]  # a network of their kind, and for their target
    blend = Blend.of(experts, sources=cell.sources, pose=cell.reference(task.reference))
    return score_everybody(
        Job(request=request, task=task, site=site.file, scans=site.scans(task), network=network), blend
    )


def _network(expert: Task, weights: Packed, *, device: torch.device) -> Network:
    network = Network(expert, device=device)
    network.load_packed(weights)
    return network


def _refuse_private(job: Job) -> None:
    if job.private:
        raise PolicyError(
            "privacy: errors of experts have no noise, so a site that trains privately does not tell them"
        )


def _reply(job: Job, name: str, mean_squares: Collection[float]) -> Reply:
    """No figure where there are no validation subjects, or where it would tell of few."""
    count = len(mean_squares)
    metrics = {name: math.sqrt(sum(mean_squares) / count)} if count else {}
    return job.reply(num_examples=count, metrics=metrics)
