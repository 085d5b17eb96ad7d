"""One round of private training at a site: reserve in the ledger, train, keep the reply, commit; then it may leave.

Whether the round succeeds must not tell who was in its lots, because a failure leaves the site too. So all that can
fail or take too long is tried before anything is reserved, on numbers that are nobody's. From the reservation on, the
round is spent: asked again without a stored reply, it is a new round and costs as much again.
"""

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from agi_core.config.schema import Task
from agi_core.data.datasets import TrainingSlices
from agi_core.errors import DeadlineError, PolicyError, ProtocolError
from agi_core.host import atomic
from agi_core.privacy.accounting import Steps, epsilon, epsilon_rdp
from agi_core.privacy.ledger import Budget, Reservation
from agi_core.privacy.noise import system_noise
from agi_core.privacy.patient_sgd import Mechanism
from agi_core.privacy.plan import planned_steps
from agi_core.privacy.private_prior import noisy_newton_step, planned_release
from agi_core.protocol import Weights
from agi_core.training import rehearse_privately, train_round_privately
from client.border import stored_replies
from client.site.file import DeployedSite, Site
from client.site.policy import PrivacyBudget, SitePrivacy, require
from client.work.job import Job
from client.work.site_ledger import open_site_ledger


def train_privately(
    job: Job,
    privacy: SitePrivacy,
    *,
    training: TrainingSlices,
    validate: Callable[[], None],
    on_step: Callable[[int, int], None],
) -> Weights:
    """The weights after one private round; a repeated request gets the stored reply.

    The job's network is trained in place. The steps are charged on all training subjects of the site.

    Args:
        validate: tells of the model that came, at a cost of its own. It is called when no rule, budget or deadline
            refuses the round, and not where the reply is stored.

    Raises:
        PolicyError: the task asks for less privacy than the site allows; nothing was trained.
        DeadlineError: the round could take too long; nothing was trained.
        BudgetError: the round would exceed the site's budget, or the run's own; nothing was trained.
        PrivacyError: the ledger cannot be trusted, or the model does not qualify.
    """
    mechanism = mechanism_of(job.task, privacy)
    planned = Steps(mechanism.noise_multiplier, mechanism.lot_rate, job.task.training.local_steps)

    def train() -> Weights:
        train_round_privately(
            job.network.module,
            training.draw_subject,
            subjects=training.subjects,
            mechanism=mechanism,
            noise=system_noise(),
            task=job.task,
            round=job.request.round,
            on_step=on_step,
        )
        return job.network.weights

    def rehearse() -> None:
        steps = planned.steps * mechanism.subjects
        _rehearse(job, steps=steps)
        validate()
        _rehearse(job, steps=steps)  # the validation took time too

    return _release(job, privacy, planned=planned, rehearse=rehearse, make=train)


def tell_private_step(job: Job, privacy: SitePrivacy) -> Weights:
    """The site's share of one private step of the prior (`agi_core.privacy.private_prior`), charged on all training
    subjects; a repeated request gets the stored reply.

    Raises:
        PolicyError: the task asks for less privacy than the site allows.
        ProtocolError: the model that came has no public prior to start from.
        BudgetError: the step would exceed the site's budget, or the run's own.
        PrivacyError: the ledger cannot be trusted.
    """
    mechanism_of(job.task, privacy)
    planned, prior, gram = planned_release(job.task.privacy), job.network.prior, job.network.prior_gram
    least, sigma = privacy.min_noise_multiplier, planned.noise_multiplier
    require(sigma >= least, "privacy.min_noise_multiplier", asked=f"{sigma:g}", allowed=f"{least:g} or more")
    if prior is None or gram is None:
        raise ProtocolError("a private step of the prior needs a model with a public one")
    statistics = [*job.scans.prior_statistics.values()]  # unusable scans are named before anything is spent

    def step() -> Weights:
        count, noise = privacy.subjects, system_noise()
        told = noisy_newton_step(statistics, prior=prior, gram=gram, count=count, noise_multiplier=sigma, noise=noise)
        return {"step": told.astype(np.float32).astype(np.float64)}

    return _release(job, privacy, planned=planned, rehearse=lambda: None, make=step)


def _release(
    job: Job, privacy: SitePrivacy, *, planned: Steps, rehearse: Callable[[], None], make: Callable[[], Weights]
) -> Weights:
    """What `make` makes with the planned steps: reserved before it is made, committed before it leaves. A repeated
    request gets what it got. `rehearse` fails before anything is spent where `make` could fail or take too long."""
    request, digest, subjects = job.request, stored_replies.digest(job.request), job.scans.subjects
    trained, budget = subjects.identities(subjects.train), Budget(privacy.epsilon, privacy.delta)
    run_budget = Budget(epsilon=job.task.privacy.epsilon or 0.0, delta=job.task.privacy.delta)
    reply_path = Path(privacy.ledger).with_suffix(".reply.safetensors")

    with open_site_ledger(job.site, privacy) as ledger:
        for earlier in ledger.find(request.run_id, request.round):
            same = earlier.status == "committed" and earlier.request == digest
            if same and (stored := _stored(reply_path, earlier)) is not None:
                return stored
        ledger.check(trained, planned, run=request.run_id, round=request.round, budget=budget, run_budget=run_budget)
        rehearse()
        reservation = ledger.reserve(
            trained,
            planned,
            run=request.run_id,
            round=request.round,
            request=digest,
            budget=budget,
            run_budget=run_budget,
        )
        made = make()
        content = save(made)
        atomic.write_bytes(reply_path, content)
        ledger.commit(reservation, reply=hashlib.sha256(content).hexdigest())
    return made


def _rehearse(job: Job, *, steps: int) -> None:
    """Compute the gradient of nobody.

    Raises:
        DeadlineError: so many of them would take more than half of the time that is left.
    """
    rehearse_privately(job.network.module, task=job.task)
    if not isinstance(job.site, DeployedSite):  # nothing ends the work of a simulated site
        return
    gradient_s, left_s = rehearse_privately(job.network.module, task=job.task), job.left_s
    if steps * gradient_s > left_s / 2:
        raise DeadlineError(
            f"a private round in which every subject is in every lot takes about {steps * gradient_s:.0f} s here, and"
            f" {left_s:.0f} s are left, of which it may take half; ask the coordinator for a longer"
            " federation.deadline_s or fewer steps, or raise policy.max_deadline_s of this site"
        )


def mechanism_of(task: Task, allowed: SitePrivacy) -> Mechanism:
    """The private step that the task asks for, if it is as private as the site demands.

    Raises:
        PolicyError: it is less private. PrivacyError: its budget is impossible.
    """
    asked = task.privacy
    if asked.epsilon is None:
        raise PolicyError("privacy: this site trains privately only, and the task has no privacy.epsilon")
    _at_most("epsilon", asked.epsilon, allowed.epsilon)
    _at_most("delta", asked.delta, allowed.delta)
    _at_most("max_lot_rate", asked.lot_rate, allowed.max_lot_rate)
    _at_most("max_grad_norm", asked.max_grad_norm, allowed.max_grad_norm)
    sigma = planned_steps(task)[-1].noise_multiplier
    least = allowed.min_noise_multiplier
    require(sigma >= least, "privacy.min_noise_multiplier", asked=f"{sigma:g}", allowed=f"{least:g} or more")
    return Mechanism(sigma, asked.max_grad_norm, asked.lot_rate, allowed.subjects)


def _at_most(rule: str, asked: float, limit: float) -> None:
    require(asked <= limit, f"privacy.{rule}", asked=f"{asked:g}", allowed=f"{limit:g} or less")


def spent_at(
    site: Site, privacy: PrivacyBudget, *, subjects: Collection[str], delta: float, run: str = ""
) -> dict[str, float]:
    """What has been spent on the site's subjects, who are given by all that they are known by: {"epsilon": by PRV,
    "epsilon_rdp": by RDP, "epsilon_run": of it by `run`}.

    Raises:
        PrivacyError: the ledger cannot be trusted.
    """
    with open_site_ledger(site, privacy) as ledger:
        spent, of_run = ledger.spent(subjects), ledger.spent_by(run)
    return {
        "epsilon": epsilon(spent, delta=delta),
        "epsilon_rdp": epsilon_rdp(spent, delta=delta),
        "epsilon_run": epsilon(of_run, delta=delta),
    }


def _stored(path: Path, reservation: Reservation) -> Weights | None:
    """The reply of a committed reservation, or None when it is no longer kept."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != reservation.reply:
        return None
    weights: Weights = load(content)
    return weights
