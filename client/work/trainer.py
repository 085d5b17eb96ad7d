"""What a site does with a request: open its data, load the weights, validate, train, evaluate.

Opened data and the model are kept between requests of one task: a runner that lives for days pays for them once.
"""

import dataclasses
import gc
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from agi_core.config.load import from_dict
from agi_core.config.schema import Task
from agi_core.data.datasets import TrainingSlices, validation_subset
from agi_core.data.misalignment import perturbation
from agi_core.data.partition import stable_order
from agi_core.data.preparation import CachedSession, build_cache
from agi_core.data.scans import Subject, discover
from agi_core.errors import ConfigError, DataError, MismatchError, PolicyError, PrivacyError, ProtocolError
from agi_core.metrics import mean_over_subjects
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig, spatial_multiple
from agi_core.prediction import predictor
from agi_core.protocol import (
    ALL,
    EVALUATE,
    TEST,
    TRAIN,
    VALIDATION,
    Packed,
    Reply,
    Request,
    model_hash,
    pack,
    unpack,
)
from agi_core.run import progress
from agi_core.scenario import parse_scenario
from agi_core.training import evaluate, train_round, weights_of
from client.border import audit, stored_replies
from client.border.egress import action_of, shown
from client.site.file import Site, read_site
from client.site.policy import SitePrivacy, check_task, demand
from client.site.split import lasting_split


@dataclass(frozen=True)
class SiteSubjects:
    """A site's subjects by use; `all` in stable order."""

    train: tuple[Subject, ...]
    validation: tuple[Subject, ...]
    test: tuple[Subject, ...]
    all: tuple[Subject, ...]


def answer(site_path: Path, request: Request) -> Reply:
    """Train or evaluate as asked.

    Raises:
        PolicyError: the site's own rules do not allow it.
        AgiError: the request does not fit this site's data, configuration or model.
    """
    site, task = read_site(site_path), read_task(request.task)
    check_task(task, site.policy)
    device = open_device(site)
    model = load_model(task, request.weights, device)
    if request.action == TRAIN and (task.privacy.on or site.privacy):
        return _train_privately(site_path, site, task, request, model)
    if request.action == TRAIN:
        return _train(site_path, site, task, request, model)
    if request.action == EVALUATE and request.subjects == ALL and site.privacy:
        raise PolicyError(f"privacy: site {site.site} trains privately; an evaluation on all subjects tells of these")
    if request.action == EVALUATE and request.subjects == TEST and site.privacy:
        _check_private_test(site, site.privacy, request)
    if request.action == EVALUATE and request.subjects == VALIDATION:
        metrics = _validate(site_path, site, task, request, model)
        return _reply(request, task, num_examples=int(metrics.get("validation_subjects", 0)), metrics=metrics)
    if request.action == EVALUATE and request.subjects in (TEST, ALL):
        return _test(site_path, site, task, request, model)
    raise ProtocolError(f"no request is called {request.action} {request.subjects}")


def _train(site_path: Path, site: Site, task: Task, request: Request, model: nn.Module) -> Reply:
    started = time.monotonic()
    training = open_training(site_path, request.task)
    metrics = _validate(site_path, site, task, request, model)
    phase = f"round {request.round}/{task.rounds}"
    metrics["train_loss"] = train_round(
        model,
        training.draw,
        task=task,
        site=site.site,
        round=request.round,
        on_step=lambda step, steps, loss: progress.report(progress.Step(phase, site.site, step, steps, loss)),
    )
    metrics["seconds"] = time.monotonic() - started
    subjects = open_subjects(site_path, request.task)
    weights = pack(weights_of(model), request.weights.transport)
    return _reply(request, task, num_examples=len(subjects.train), metrics=metrics, weights=weights)


def _train_privately(site_path: Path, site: Site, task: Task, request: Request, model: nn.Module) -> Reply:
    """Weights and the site's public number of subjects; no metric of training; of validation noisy ones or none."""
    from client.work.private_training import (
        train_privately,  # here, because Opacus takes seconds to import and is an option
    )

    if site.privacy is None:
        raise PrivacyError(
            f"the task asks for private training, but the file of site {site.site} has no section privacy, which says"
            " where its ledger is kept"
        )
    privacy = site.privacy
    subjects = [subject.id for subject in open_subjects(site_path, request.task).train]
    training = open_training(site_path, request.task)
    metrics = _validate(site_path, site, task, request, model)
    phase = f"round {request.round}/{task.rounds}"
    weights = train_privately(
        model,
        training,
        site=site.site,
        privacy=privacy,
        task=task,
        request=request,
        subjects=subjects,
        on_step=lambda step, steps: progress.report(progress.Step(phase, site.site, step, steps)),
    )
    packed = pack(weights, request.weights.transport)  # after the noise: costs no privacy
    return _reply(request, task, num_examples=privacy.subjects, metrics=metrics, weights=packed)


def _validate(site_path: Path, site: Site, task: Task, request: Request, model: nn.Module) -> dict[str, float]:
    """The incoming model on the site's validation slices, the same in every round; empty where there are none.

    Of a site that trains privately: noisy means, or nothing.
    """
    if site.privacy and site.privacy.validation is None:
        return {}
    sessions = open_whole(site_path, request.task, VALIDATION)
    volumes = task.model.dims == 3
    slices = validation_subset(sessions, limit=task.evaluation.validation_slices, volumes=volumes)
    scored, everybody = (
        len({session.subject_id for session, _ in some})
        for some in (slices, validation_subset(sessions, volumes=volumes))
    )
    demand(
        not slices or scored >= min(everybody, site.policy.minimum_subjects),
        "policy.minimum_subjects",
        asked=f"evaluation.validation_slices={task.evaluation.validation_slices}, which are of {scored} subjects",
        allowed=f"no figure of fewer than {min(everybody, site.policy.minimum_subjects)}",
    )

    def score() -> dict[str, dict[str, float]]:
        predict = predictor(model, multiple=spatial_multiple(task.model), crop=task.crop)
        return evaluate(predict, slices, neighbours=task.model.neighbours)

    if not slices:
        return {}
    if site.privacy and (validation := site.privacy.validation):
        from agi_core.privacy.noise import system_noise
        from client.work.private_validation import validate_privately  # here, because it brings Opacus

        subjects = [subject.id for subject in open_subjects(site_path, request.task).validation]
        means = validate_privately(
            score, site=site.site, validation=validation, request=request, subjects=subjects, noise=system_noise()
        )
        count = validation.subjects
    else:
        scores = score()
        means, count = mean_over_subjects(scores.values()), len(scores)
    if not means:
        return {}
    return {**{f"validation_{name}": value for name, value in means.items()}, "validation_subjects": count}


def _check_private_test(site: Site, privacy: SitePrivacy, request: Request) -> None:
    """Differences between tests of many chosen models tell of single subjects: one model per run that trained here, and
    so was paid for.

    Raises:
        PolicyError: the run did not train here, or another model of it was tested.
    """
    from client.work.private_training import has_trained

    if not has_trained(site.site, privacy, run=request.run_id):
        raise PolicyError(f"privacy: run {request.run_id!r} has not trained here, so it gets no test")
    told = [row for row in audit.read(Path(site.state_dir)) if row.action == action_of(request) and row.request]
    if any(row.run == shown(request.run_id) and row.request != stored_replies.digest(request) for row in told):
        raise PolicyError(f"privacy: run {request.run_id!r} has had its test, of another model")


def _test(site_path: Path, site: Site, task: Task, request: Request, model: nn.Module) -> Reply:
    sessions, subjects = open_whole(site_path, request.task, request.subjects), open_subjects(site_path, request.task)
    least = min(site.policy.minimum_subjects, len(subjects.all))
    demand(
        request.subjects != ALL or task.evaluation.max_subjects >= least,
        "policy.minimum_subjects",
        asked=f"evaluation.max_subjects={task.evaluation.max_subjects}",
        allowed=f"no figure of fewer than {least}",
    )

    def on_session(done: int) -> None:
        progress.report(progress.Step("test", site.site, done, len(sessions)))

    slices = ((session, None) for session in sessions)
    predict = predictor(model, multiple=spatial_multiple(task.model), crop=task.crop)
    scores = evaluate(predict, slices, neighbours=task.model.neighbours, on_session=on_session)
    return _reply(request, task, num_examples=len(scores), metrics=mean_over_subjects(scores.values()))


def _reply(
    request: Request, task: Task, *, num_examples: int, metrics: dict[str, float], weights: Packed | None = None
) -> Reply:
    steps = task.training.local_steps if weights else 0
    return Reply(request.run_id, request.round, request.nonce, num_examples, metrics, weights, steps)


@lru_cache(maxsize=64)
def read_task(text: str) -> Task:
    """The task of a request; ConfigError when it is malformed or out of range."""
    try:
        return from_dict(Task, json.loads(text))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the request's task cannot be read: {error}") from None


@lru_cache(maxsize=256)
def open_subjects(site_path: Path, task_text: str) -> SiteSubjects:
    """The site's subjects with all modalities of the task's scenario, each in the part that it was given for good.

    Raises:
        DataError: no such subject, or one that the site file lists is not in the tree.
    """
    site, task = read_site(site_path), read_task(task_text)
    found = discover(
        Path(site.data.dir),
        layout=site.data.layout,
        modalities=parse_scenario(task.scenario).modalities,
        sites_file=Path(site.data.sites) if site.data.sites else None,
        exclude=site.data.exclude,
    )
    by_id = {subject.id: subject for subject in found.subjects}
    chosen = stable_order(by_id if site.data.subjects is None else site.data.subjects)
    absent = [subject_id for subject_id in chosen if subject_id not in by_id]
    if absent or not chosen:
        raise DataError(
            f"site {site.site}: {', '.join(absent) or 'every subject'} is missing in {site.data.dir}; {found.summary()}"
        )
    split = lasting_split(Path(site.state_dir), chosen)

    def subjects(ids: Sequence[str]) -> tuple[Subject, ...]:
        return tuple(by_id[subject_id] for subject_id in ids)

    return SiteSubjects(subjects(split.train), subjects(split.validation), subjects(split.test), subjects(chosen))


@lru_cache(maxsize=256)
def open_training(site_path: Path, task_text: str) -> TrainingSlices:
    """The site's training slices; the first call builds the cache."""
    sessions = _open_sessions(site_path, task_text, open_subjects(site_path, task_text).train, whole=False)
    task = read_task(task_text)
    perturb = perturbation(task.training.misalign, parse_scenario(task.scenario))
    return TrainingSlices(sessions, crop=task.crop, neighbours=task.model.neighbours, perturb=perturb)


@lru_cache(maxsize=256)
def open_whole(site_path: Path, task_text: str, which: str) -> tuple[CachedSession, ...]:
    """Whole sessions of the validation or test subjects, or of at most `evaluation.max_subjects` of all."""
    task, subjects = read_task(task_text), open_subjects(site_path, task_text)
    chosen = {VALIDATION: subjects.validation, TEST: subjects.test, ALL: subjects.all[: task.evaluation.max_subjects]}
    return tuple(_open_sessions(site_path, task_text, chosen[which], whole=True))


def _open_sessions(site_path: Path, task_text: str, subjects: Sequence[Subject], *, whole: bool) -> list[CachedSession]:
    site, task = read_site(site_path), read_task(task_text)
    spacing = task.grid.spacing_mm
    if site.data.register == "rigid" and task.reference is None:
        raise ConfigError(
            f"site {site.site} registers its scans (data.register: rigid), but the run names no reference to register"
            " to; start it with reference=MODALITY, the source acquired in the target's pose"
        )
    return build_cache(
        subjects,
        scenario=parse_scenario(task.scenario),
        spacing_mm=(spacing[0], spacing[1], spacing[2]) if spacing else None,
        cache_dir=Path(site.cache_dir),
        data_dir=Path(site.data.dir),
        whole=whole,
        register_to=task.reference if site.data.register == "rigid" else None,
        on_session=lambda done, total: progress.report(progress.Step("reading scans", site.site, done, total)),
    )


def open_device(site: Site) -> torch.device:
    """The site's device, with its number of threads set.

    Raises:
        ConfigError: the site names a device that this machine lacks.
    """
    torch.set_num_threads(site.threads)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if site.device == "auto" else site.device
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={site.device}: this machine has no usable GPU; set device=cpu or device=auto")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, NotImplementedError, AssertionError):  # torch's ways to say that a device is not there
        raise ConfigError(
            f"device={site.device} cannot be used on this machine; set device=auto, cpu or cuda"
        ) from None


def load_model(task: Task, packed: Packed, device: torch.device) -> nn.Module:
    """The site's own model with the weights of the request.

    Raises:
        MismatchError: the coordinator's model differs from the one that this program builds from the task.
    """
    scenario = parse_scenario(task.scenario)
    reference = scenario.number_of(task.reference)
    model = _build_once(json.dumps(dataclasses.asdict(task.model)), len(scenario.sources), reference, device)
    own = pack(weights_of(model)).manifest
    if packed.manifest != own:
        raise MismatchError("model hash", theirs=model_hash(packed.manifest), ours=model_hash(own))
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in unpack(packed).items()})
    return model


@lru_cache(maxsize=2)
def _build_once(model_config: str, sources: int, reference: int | None, device: torch.device) -> nn.Module:
    """One model for all requests (in a simulation: for all sites in turn), since each request brings all weights."""
    return build_model(ModelConfig(**json.loads(model_config)), sources=sources, reference=reference).to(device)


def release_memory() -> None:
    """Forget the model with its gradients and give cached GPU memory back, after a request that did not fit."""
    _build_once.cache_clear()
    gc.collect()
    torch.cuda.empty_cache()
