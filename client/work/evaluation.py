"""Figures of a site: validation of the incoming model, and the final test."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from torch import Tensor

from agi_core import evaluation
from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import MIN_FOREGROUND, subset_of_each, validation_subset
from agi_core.errors import AgiError, BudgetError, PolicyError, ProtocolError
from agi_core.metric_table import FAULTY, METRIC_NAMES, PERSONAL_METRIC_NAMES, VALIDATION_METRIC_NAMES
from agi_core.metrics import mean_over_subjects
from agi_core.prediction import Predictor
from agi_core.protocol import ALL, POSES, STATISTICS, TEST, VALIDATION, Reply
from agi_core.run import progress
from agi_core.scoring.volume import image_fault
from client.border import stored_replies
from client.site.policy import PrivateValidation, SitePrivacy, require
from client.site.told import Part, told_slices, told_subjects
from client.work.closed_form import tell_statistics, with_own_weights
from client.work.job import Job
from client.work.poses import tell_poses
from client.work.tissue import Tissue

SubjectScores = Mapping[str, Mapping[str, float]]  # {subject id: {metric: value}}
Slices = Sequence[tuple[CachedSession, Sequence[int]]]
Whole = Sequence[tuple[CachedSession, None]]
log = logging.getLogger("client")


def evaluate(job: Job) -> Reply:
    """The incoming model on the subjects that are asked for, or what else is asked of them.

    Raises:
        PolicyError: the site's rules do not allow it. ProtocolError: there are no such subjects.
    """
    subjects = job.request.subjects
    if subjects == VALIDATION:
        metrics = validate(job)
        return job.reply(num_examples=int(metrics.get("validation_subjects", 0)), metrics=metrics)
    if subjects == TEST:
        return _test(job)
    if subjects == ALL:
        return score_everybody(job, job.network)
    if subjects == STATISTICS:
        return tell_statistics(job)
    if subjects == POSES:
        return tell_poses(job)
    raise ProtocolError(f"no request is called {job.request.action} {subjects}")


def validate(job: Job) -> dict[str, float]:
    """The incoming model on the site's validation slices, the same for life (`client.site.told`); empty where there are
    none, or where they would tell of few subjects.

    A site that trains privately tells noisy means, or nothing.

    Raises:
        PolicyError: so few slices are asked for that they would be of fewer subjects than the policy's minimum.
    """
    privacy = job.site.privacy
    if privacy:
        return _noisy_validation(job, privacy.validation) if privacy.validation else {}
    slices = _asked_slices(job)
    if not slices:
        return {}
    scores = evaluation.evaluate(job.network, _told_slices(job, slices))
    if not scores:
        job.held_back.extend(VALIDATION_METRIC_NAMES)
    return _told_as(means_of_all(job, scores, prefix="validation_"), len(scores))


def means_of_all(job: Job, scores: SubjectScores, *, prefix: str = "") -> dict[str, float]:
    """The means over these subjects. At a site with a `policy.minimum_subjects` a figure that one of them lacks is held
    back, such as SSIM of a tiny field of view: it would be of the others, and in the end of one."""
    means = mean_over_subjects(scores.values())
    if job.site.policy.minimum_subjects > 1:
        lacking = [name for name in means if not all(name in figures for figures in scores.values())]
        job.held_back.extend(f"{prefix}{name}" for name in lacking)
        means = {name: value for name, value in means.items() if name not in lacking}
    return means


def personal_means(job: Job, scores: SubjectScores) -> dict[str, float]:
    """`means_of_all` of what is the site's own, by the names of such figures."""
    return {f"personal_{name}": value for name, value in means_of_all(job, scores, prefix="personal_").items()}


def _told_as(means: Mapping[str, float], count: int) -> dict[str, float]:
    told = {f"validation_{name}": value for name, value in means.items()}
    return {**told, "validation_subjects": count} if told else {}


def _noisy_validation(job: Job, validation: PrivateValidation) -> dict[str, float]:
    """`validate` of a private site; empty where the model's figures were told before, or the budget is spent.

    Nothing but the noisy sum depends on who is there: each subject's figures are of slices of its own, whose number
    follows from what is public.
    """
    from agi_core.privacy.noise import system_noise
    from client.work.private_validation import validate_privately  # here, because it brings Opacus

    asked, sessions = job.task.evaluation.validation_slices, job.scans.validation
    if not asked:
        return {}
    each = max(1, asked // validation.subjects)

    def score() -> SubjectScores:
        found: dict[str, Mapping[str, float]] = {}
        for slices in subset_of_each(sessions, limit=each, volumes=job.network.volumetric).values():
            try:
                found |= evaluation.evaluate(job.network, slices)
            except Exception:  # whoever fails takes nobody else's term along
                log.exception("a validation subject has no figures, and counts as the middle of their ranges")
        return found

    means = validate_privately(
        score,
        site=job.site,
        validation=validation,
        request=job.request,
        subjects=job.scans.subjects.identities(job.scans.subjects.validation),
        noise=system_noise(),
    )
    return _told_as(means, validation.subjects)


def told_validation(job: Job) -> Slices:
    """The validation slices that figures are told of; none where these would tell of few subjects. Raises PolicyError
    as `validate` does."""
    slices = _asked_slices(job)
    return _told_slices(job, slices) if slices else []


def _asked_slices(job: Job) -> Slices:
    """The validation slices that the task asks for; PolicyError where they are of too few subjects."""
    sessions = job.scans.validation
    slices = _chosen(job, sessions, limit=job.task.evaluation.validation_slices)
    scored, everybody = len(_ids(slices)), _with_a_head(sessions)
    require(
        not slices or scored >= min(everybody, job.site.policy.minimum_subjects),
        "policy.minimum_subjects",
        asked=f"evaluation.validation_slices={job.task.evaluation.validation_slices}, which are of {scored} subjects",
        allowed=f"no figure of fewer than {min(everybody, job.site.policy.minimum_subjects)}",
    )
    return slices


def _chosen(job: Job, sessions: Sequence[CachedSession], *, limit: int) -> Slices:
    """`validation_subset` of the site; in 3-D of as many volumes as its policy wants subjects, if they are there."""
    if limit and sessions and job.network.volumetric:
        least = min(_with_a_head(sessions), job.site.policy.minimum_subjects)
        limit = max(limit, least * max(session.shape[0] for session in sessions))
    return validation_subset(sessions, limit=limit, volumes=job.network.volumetric)


def _with_a_head(sessions: Sequence[CachedSession]) -> int:
    """How many subjects have a slice that counts."""
    return len(_ids([(one, ()) for one in sessions if (one.foreground_fraction >= MIN_FOREGROUND).any()]))


def told_among(job: Job, part: Part, subject_ids: Collection[str]) -> set[str]:
    """The ids of those subjects that figures are told of; see `client.site.told`.

    Raises:
        PolicyError: there is no such set. DataError, RunError: see there.
    """
    everybody, minimum = job.scans.subjects.all, job.site.policy.minimum_subjects
    if len(everybody) < minimum:  # no figure will leave the site
        return {*subject_ids}
    subjects = [subject for subject in everybody if subject.id in subject_ids]
    told = told_subjects(
        Path(job.site.state_dir), part, subjects, known_as=job.scans.subjects.known_as, minimum=minimum
    )
    return {subject.id for subject in told}


def _told_slices(job: Job, slices: Slices) -> Slices:
    """In place of the slices that were asked for those that figures are told of; none where these would tell of few
    subjects."""
    asked, minimum = job.task.evaluation.validation_slices, job.site.policy.minimum_subjects
    limit = told_slices(Path(job.site.state_dir), asked, minimum=minimum)
    if limit != asked:
        slices = _chosen(job, job.scans.validation, limit=limit)
    try:
        told = told_among(job, "validation", _ids(slices))
    except PolicyError as error:
        log.warning("no validation: %s", error)
        return []
    if told != _ids(slices):
        sessions = [session for session in job.scans.validation if session.subject_id in told]
        slices = _chosen(job, sessions, limit=limit)
    return slices if told == _ids(slices) else []


def _ids(slices: Slices) -> set[str]:
    return {session.subject_id for session, _ in slices}


def told_tests(job: Job) -> Whole:
    """The whole sessions of the test subjects that figures are told of. Raises as `told_among` does."""
    return _told_whole(job, "test", job.scans.test)


def _told_whole(job: Job, part: Part, sessions: Sequence[CachedSession]) -> Whole:
    told = told_among(job, part, {session.subject_id for session in sessions})
    return [(session, None) for session in sessions if session.subject_id in told]


def score_everybody(job: Job, predictor: Predictor) -> Reply:
    """The figures of a predictor on all subjects, at a site that does not train.

    Raises:
        PolicyError: the site trains privately, or so few subjects are asked for that the figures would tell of them.
    """
    if job.site.privacy:
        raise PolicyError(
            f"privacy: site {job.site.site} trains privately; an evaluation on all subjects tells of these"
        )
    least = min(job.site.policy.minimum_subjects, len(job.scans.subjects.all))
    require(
        job.task.evaluation.max_subjects >= least,
        "policy.minimum_subjects",
        asked=f"evaluation.max_subjects={job.task.evaluation.max_subjects}",
        allowed=f"no figure of fewer than {least}",
    )
    metrics, count = _figures(job, predictor, _told_whole(job, "all", job.scans.everybody))
    return job.reply(num_examples=count, metrics=metrics)


def _test(job: Job) -> Reply:
    """The figures of the incoming model and of the site's own, which is made and kept although none may be told."""
    whole, on_session = _tests_to_tell(job), progress.steps_of("test", job.site.site)
    metrics, count = _figures(job, job.network, whole)
    if job.task.personal != "none" and job.private:
        _keep_own_weights(job)
    elif job.task.personal != "none":
        with with_own_weights(job):
            own = evaluation.evaluate(job.network, whole, on_session=on_session)
        metrics |= personal_means(job, own)
    return job.reply(num_examples=count, metrics=metrics)


def _tests_to_tell(job: Job) -> Whole:
    """`told_tests`; none where no figure of these may leave, or the site's private tests are used up. PolicyError: as
    `_allow_private_test`."""
    try:
        if job.site.privacy:
            _allow_private_test(job, job.site.privacy)
    except BudgetError as error:
        return _held_back(job, error)
    try:
        return told_tests(job)
    except PolicyError as error:
        return _held_back(job, error)


def _held_back(job: Job, error: AgiError) -> Whole:
    """No test at all, and why."""
    log.warning("no test figures: %s", error)
    job.held_back.extend((*METRIC_NAMES, *(PERSONAL_METRIC_NAMES if job.task.personal != "none" else ())))
    return []


def _keep_own_weights(job: Job) -> None:
    """Solve and keep them, and tell nothing: not even a failure, which would tell of the training subjects."""
    try:
        with with_own_weights(job):
            pass
    except Exception:
        log.exception("this site has no weights of its own for this model")


def _figures(job: Job, predictor: Predictor, whole: Whole) -> tuple[dict[str, float], int]:
    """The means over the subjects, in tumours too, and how many these are."""
    on_session = progress.steps_of("test", job.site.site)
    if job.private:
        scores = evaluation.evaluate(predictor, whole, on_session=on_session)
        return means_of_all(job, scores), len(scores)
    tissue, faults = Tissue(job), list[bool]()

    def on_volume(session: CachedSession, prediction: Tensor, target: Tensor, head: Tensor) -> None:
        if head.any():
            faults.append(image_fault(prediction[head].numpy()) is not None)
        tissue.add(session, prediction, target, head)

    scores = evaluation.evaluate(predictor, whole, on_session=on_session, on_volume=on_volume)
    means = means_of_all(job, scores) | (tissue.means(scores) if tissue.found and scores else {})
    return means | ({FAULTY: fmean(faults)} if faults else {}), len(scores)


def _allow_private_test(job: Job, privacy: SitePrivacy) -> None:
    """Let a run test one model, if it trained here and the site's tests are not used up. Differences between the tests
    of many chosen models would tell of single subjects, whether or not their runs paid anything.

    Raises:
        PolicyError, BudgetError: see `agi_core.privacy.ledger.Ledger.allow_test`.
    """
    from client.work.site_ledger import open_site_ledger  # here, because it brings Opacus

    request = job.request
    with open_site_ledger(job.site, privacy) as ledger:
        ledger.allow_test(run=request.run_id, request=stored_replies.digest(request), most=privacy.max_tests)
