"""The local loop, without and with privacy: no files, no globals, no Flower."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agi_core.adversary import adversarial_loss
from agi_core.config.schema import Task
from agi_core.data.datasets import Batch, Draw, drawn
from agi_core.errors import RunError
from agi_core.prediction import autocast
from agi_core.privacy.noise import NoiseSource
from agi_core.privacy.patient_sgd import Mechanism, private_step
from agi_core.privacy.trainable import training_only
from agi_core.scenario import parse_scenario
from agi_core.schedule import learning_rate
from agi_core.ssim_loss import ssim_loss
from agi_core.target_alignment import TargetAlignment

DrawSubject = Callable[[str, torch.Generator, int], Batch]  # (subject id, generator, batch size) -> its slices
OnStep = Callable[[int, int, float], None]  # (step, steps, the newest loss that was read)
READ_EVERY_S = 0.5  # the losses are read from the device so often: a GPU stands still meanwhile


def site_generator(*, seed: int, site: str, round: int) -> torch.Generator:
    """All randomness of one site in one round: a function of (run seed, site, round) and of nothing else."""
    digest = hashlib.sha256(f"{seed}|{site}|{round}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def train_round(
    model: nn.Module, draw: Draw, *, task: Task, site: str, round: int, on_step: OnStep | None = None
) -> list[float]:
    """One round of local training, in place.

    Each round makes a new AdamW. Keeping its moments between rounds gained nothing in a trial, and a round that depends
    on (weights, seed, site, round) alone can be repeated exactly.

    Args:
        model: takes sources (B, M, *crop) in [0, 1], gives (B, 1, *crop); already on its device.
        draw: gives random training batches; `agi_core.data.datasets.TrainingSlices.draw`.
        round: from 1.
        on_step: called after each step, which a GPU may not have finished yet.

    Returns:
        The loss of each step.

    Raises:
        RunError: the loss is not finite.
    """
    training, device = task.training, next(model.parameters()).device
    generator = site_generator(seed=task.seed, site=site, round=round)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=training.weight_decay)
    loss_of, on_reference, adversary = _loss(task, device), TargetAlignment.of(task), None
    if training.adversarial:
        scenario = parse_scenario(task.scenario)
        adversary = adversarial_loss(
            sources=len(scenario.sources), dims=task.model.dims, device=device, seed=generator.initial_seed()
        )
    model.train()
    sent = [parameter.detach().clone() for parameter in model.parameters()] if training.proximal else []
    losses, unread, read_s = list[float](), list[Tensor](), -math.inf
    batches = drawn(draw, generator, training.batch_size, batches=training.local_steps, device=device)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, rounds=task.rounds, round=round, step=step)
        sources, target = batch.on(device)
        optimizer.zero_grad()
        with autocast(device):
            prediction = model(sources)
        if on_reference is not None:
            target = seen_part(prediction.float(), *on_reference(sources, target))
        loss = loss_of(prediction.float(), target)
        if adversary is not None:
            loss = loss + adversary(sources, prediction.float(), target)
        for parameter, start in zip(model.parameters(), sent, strict=False):
            loss = loss + training.proximal / 2 * (parameter - start).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        unread.append(loss.detach())
        if time.monotonic() >= read_s + READ_EVERY_S or step + 1 == training.local_steps:
            for value in torch.stack(unread).tolist():
                losses.append(value)
                if not math.isfinite(value):
                    raise RunError(
                        f"the loss became {value} at {site} in round {round}, step {len(losses)};"
                        " start a new run with a lower training.learning_rate"
                    )
            unread, read_s = [], time.monotonic()
        if on_step is not None:
            on_step(step + 1, training.local_steps, losses[-1])
    return losses


def train_round_privately(
    model: nn.Module,
    draw_subject: DrawSubject,
    *,
    subjects: Sequence[str],
    mechanism: Mechanism,
    noise: NoiseSource,
    task: Task,
    round: int,
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """One round of patient-level private training of the part `privacy.trainable`, in place; see
    `agi_core.privacy.patient_sgd`. All other weights stay bit for bit as they are.

    A new AdamW works on the noised gradients. More noise does not make its steps longer, so a site with few subjects is
    not carried away from a good start; momentum SGD carried it away (docs/privacy.md).

    Nothing is returned, because a mean loss would tell of the subjects. Each subject's slices and crops are drawn with
    a seed of their own, so they do not depend on who else is in the lot.

    Args:
        draw_subject: gives random training batches of one subject; `TrainingSlices.draw_subject`.
        subjects: ids of the subjects to draw lots from.
        mechanism: the constants of the private step.
        on_step: called with (step, steps).

    Raises:
        PrivacyError: the model does not qualify.
    """
    training, privacy = task.training, task.privacy
    loss_of = _loss_of_batch(model, task)

    def loss_of_subject(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(noise.seed())
        return loss_of(draw_subject(subjects[number], generator, privacy.slices_per_subject))

    schedule = replace(training, learning_rate=privacy.learning_rate)
    model.train()
    with training_only(privacy.trainable, model) as parameters:
        optimizer = torch.optim.AdamW(parameters, weight_decay=training.weight_decay)
        for step in range(training.local_steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(schedule, rounds=task.rounds, round=round, step=step)
            private_step(model, optimizer, loss_of_subject, count=len(subjects), mechanism=mechanism, noise=noise)
            if on_step is not None:
                on_step(step + 1, training.local_steps)


def rehearse_privately(model: nn.Module, *, task: Task) -> float:
    """The seconds that the gradient of one subject takes in `train_round_privately`; in the first call longer.

    It is computed on random numbers in place of a subject's crops, and takes the memory of any subject. So settings
    under which gradients fail raise here, whoever would be in the lots.
    """
    rows, columns, *slices = task.crop
    sources, space = len(parse_scenario(task.scenario).sources), (*slices, rows, columns)
    slab = (2 * task.model.neighbours + 1,) if task.model.neighbours else ()
    count, generator = task.privacy.slices_per_subject, torch.Generator().manual_seed(task.seed)
    images = torch.rand(count, sources + 1, *slab, *space, generator=generator).half()
    batch = Batch(images, task.model.neighbours)
    model.train()
    with training_only(task.privacy.trainable, model) as parameters:
        started = time.monotonic()
        gradients = torch.autograd.grad(_loss_of_batch(model, task)(batch), parameters, allow_unused=True)
        sum(float(gradient.sum()) for gradient in gradients if gradient is not None)  # waits for the GPU
        return time.monotonic() - started


def _loss_of_batch(model: nn.Module, task: Task) -> Callable[[Batch], Tensor]:
    device = next(model.parameters()).device
    loss_of, on_reference = _loss(task, device), TargetAlignment.of(task)

    def loss(batch: Batch) -> Tensor:
        sources, target = batch.on(device)
        with autocast(device):
            prediction = model(sources)
        if on_reference is not None:
            target = seen_part(prediction.float(), *on_reference(sources, target))
        return loss_of(prediction.float(), target)

    return loss


def seen_part(prediction: Tensor, target: Tensor, imaged: Tensor) -> Tensor:
    """The target where it was imaged; elsewhere the prediction, which costs nothing there and has no gradient."""
    return torch.where(imaged, target, prediction.detach())


def _loss(task: Task, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    weight = task.training.ssim_weight
    if weight == 0:
        return F.l1_loss
    ssim = ssim_loss(dims=task.model.dims, device=device)
    return lambda prediction, target: F.l1_loss(prediction, target) + weight * ssim(prediction, target)
