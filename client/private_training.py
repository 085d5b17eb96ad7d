"""One round of private training at a site: reserve in the ledger, train, keep the reply, commit; then it may leave."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors.numpy import load, save
from torch import nn

from agi_core import atomic
from agi_core.config import Task
from agi_core.data.datasets import TrainingSlices
from agi_core.errors import PrivacyError
from agi_core.privacy.accounting import Steps, calibrate, epsilon, epsilon_rdp
from agi_core.privacy.ledger import Budget, Reservation, open_ledger
from agi_core.privacy.noise import system_noise
from agi_core.privacy.patient_sgd import Mechanism
from agi_core.protocol import Request, Weights
from agi_core.training import train_round_privately, weights_of
from client.site import SitePrivacy


def train_privately(
    model: nn.Module,
    training: TrainingSlices,
    *,
    site: str,
    privacy: SitePrivacy,
    task: Task,
    request: Request,
    subjects: Sequence[str],
    on_step: Callable[[int, int], None],
) -> Weights:
    """The weights after one private round, at most once per request: a repeated request gets the stored reply.

    Args:
        model: holds the request's weights; trained in place.
        subjects: ids of all the site's training subjects, on whom the steps are charged.

    Raises:
        BudgetError: the round would exceed the budget; nothing was trained.
        PrivacyError: the ledger cannot be trusted, or model or task do not qualify.
    """
    mechanism = mechanism_of(task, subjects=privacy.subjects)
    planned = Steps(mechanism.noise_multiplier, mechanism.lot_rate, task.training.local_steps)
    budget = Budget(epsilon=task.privacy.epsilon or 0.0, delta=task.privacy.delta)
    ledger_path, digest = Path(privacy.ledger), _digest_of(request)
    reply_path = ledger_path.with_suffix(".reply.safetensors")

    with open_ledger(ledger_path, head_path=Path(privacy.ledger_head), site=site) as ledger:
        for earlier in ledger.find(request.run_id, request.round):
            if earlier.status == "committed" and earlier.request == digest:
                if (stored := _stored(reply_path, earlier)) is not None:
                    return stored
            elif earlier.status == "reserved":  # its process ended before the commit, so nothing of it left
                ledger.release(earlier)
        reservation = ledger.reserve(
            subjects, planned, run=request.run_id, round=request.round, request=digest, budget=budget
        )
        train_round_privately(
            model,
            training.draw_subject,
            subjects=training.subjects,
            mechanism=mechanism,
            noise=system_noise(),
            task=task,
            round=request.round,
            on_step=on_step,
        )
        weights = weights_of(model)
        content = save(weights)
        atomic.write_bytes(reply_path, content)
        ledger.commit(reservation, reply=hashlib.sha256(content).hexdigest())
    return weights


def mechanism_of(task: Task, *, subjects: int) -> Mechanism:
    """The private step of a task at a site with this public number of subjects.

    Raises:
        PrivacyError: the task asks for no privacy, for a delta that protects nobody, or for an impossible budget.
    """
    privacy = task.privacy
    if privacy.epsilon is None:
        raise PrivacyError("this site trains privately only, and the task has no privacy.epsilon")
    if privacy.delta * subjects >= 1:
        raise PrivacyError(
            f"privacy.delta={privacy.delta:g} allows to give away one of {subjects} subjects; set it well below"
            f" {1 / subjects:g}"
        )
    sigma = privacy.noise_multiplier or calibrate(
        privacy.epsilon,
        delta=privacy.delta,
        lot_rate=privacy.lot_rate,
        steps=task.rounds * task.training.local_steps,
    )
    return Mechanism(sigma, privacy.max_grad_norm, privacy.lot_rate, subjects)


def spent_at(site: str, privacy: SitePrivacy, *, subjects: Sequence[str], delta: float) -> dict[str, float]:
    """What has been spent on the site's training subjects: {"epsilon": by PRV, "epsilon_rdp": by RDP}.

    Raises:
        PrivacyError: the ledger cannot be trusted.
    """
    with open_ledger(Path(privacy.ledger), head_path=Path(privacy.ledger_head), site=site) as ledger:
        spent = ledger.spent(subjects)
    return {"epsilon": epsilon(spent, delta=delta), "epsilon_rdp": epsilon_rdp(spent, delta=delta)}


def _stored(path: Path, reservation: Reservation) -> Weights | None:
    """The reply of a committed reservation, or None when it is no longer kept."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != reservation.reply:
        return None
    weights: Weights = load(content)
    return weights


def _digest_of(request: Request) -> str:
    """What is asked, without the nonce: equal for a repeated request."""
    digest = hashlib.sha256(f"{request.run_id}|{request.round}|{request.task}|{request.weights.manifest}".encode())
    for _, flat in sorted(request.weights.arrays.items()):
        digest.update(flat.tobytes())
    return digest.hexdigest()
