"""Who was trained on: membership inference by the loss of a federation's model. Part of `benchmarks.attacks`.

The unit is the subject: its loss is the mean absolute error over its slices. Each of `MODELS` federations trains on
half of each site's subjects; the other half are its non-members. Two attackers, who have the final model:

    threshold  a subject whose loss is low is a member (Yeom et al. 2018)
    shadow     has trained models of the same kind on known members, here other federations: log-likelihood ratio of the
               subject's log loss under "in" and "out", normal, with variances pooled over subjects because there are
               few models (LiRA; Carlini et al. 2022, Algorithm 1)
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import norm
from torch import Tensor

from agi_core.config.schema import FederationConfig, PrivacyConfig, Task, TrainingConfig
from agi_core.data.datasets import Batch, Draw
from agi_core.data.intensity import scale_intensity
from agi_core.data.phantom.scanner import SLICES
from agi_core.data.phantom.subject import scan_subject
from agi_core.metric_table import psnr_db
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.models.resunet import ResUNet
from agi_core.network import weights_of
from agi_core.privacy.accounting import calibrate
from agi_core.privacy.noise import insecure_seeded_noise
from agi_core.privacy.patient_sgd import Mechanism
from agi_core.protocol import Weights
from agi_core.training import train_round, train_round_privately
from server.aggregation import SiteUpdate, aggregate

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Results = Mapping[tuple[str, int], Mapping[str, Any]]  # (setting, number of the federation) -> result of `attack`

SITES, SUBJECTS, PUBLIC = ("Guys", "HH", "IOP"), 8, "elsewhere"
DEPTHS, SIZE = (9, 12), 16  # of 20 slices; voxels of 1.5 x 1.75 mm
MODELS, PRETRAINING_STEPS, BOOTSTRAP = 6, 200, 1000
TASK = Task(
    scenario="T1,T2:PD",
    rounds=30,
    model=ModelConfig(conv="plain", widths=(16, 32)),
    training=TrainingConfig(local_steps=10, batch_size=8, learning_rate=2e-3),
)
STEPS, LOT_RATE = TASK.rounds * TASK.training.local_steps, 0.5


class Setting(NamedTuple):
    """How the sites train; `epsilon` None: without noise."""

    private: bool
    epsilon: float | None
    learning_rate: float


SETTINGS = {
    "no privacy": Setting(False, None, 2e-3),
    "clipped, no noise": Setting(True, None, 0.1),
    "epsilon 8": Setting(True, 8.0, 1e-3),
    "epsilon 1": Setting(True, 1.0, 2e-4),
}


def scan_subjects() -> npt.NDArray[np.float32]:
    """Slices in [0, 1] of all sites' subjects and as many public ones: (sites + 1, subjects, slices, 3, SIZE, SIZE),
    the middle of the head in T1, T2 and PD."""
    return np.stack([np.stack([_slices(site, n) for n in range(SUBJECTS)]) for site in (*SITES, PUBLIC)])


def attack(images: Tensor, setting: Setting, number: int) -> dict[str, Any]:
    """Train federation `number` and look at all subjects.

    Returns:
        Their losses and who was in it, each (sites, subjects), and PSNR in dB on those who were not.
    """
    orders = [_permutation(number // 2, site) for site in range(len(SITES))]
    half = slice(SUBJECTS // 2) if number % 2 else slice(SUBJECTS // 2, None)  # everybody is in one of two models
    inside = torch.stack([order[half] for order in orders])
    member = torch.zeros(len(SITES), SUBJECTS, dtype=torch.bool).scatter(1, inside, True)
    model, slices = federate(images, inside, setting=setting, seed=number), images[: len(SITES)].flatten(0, 2)
    with torch.no_grad():
        errors = (model(slices[:, :-1]) - slices[:, -1:]).reshape(len(SITES), SUBJECTS, -1)
    return {
        "losses": errors.abs().mean(2).tolist(),
        "member": member.tolist(),
        "psnr_db": psnr_db(float(errors[~member].square().mean())),
    }


def federate(images: Tensor, members: Tensor, *, setting: Setting, seed: int) -> ResUNet:
    """The model of all rounds on the subjects `members` (sites, n), from public pre-training."""
    privacy = PrivacyConfig(lot_rate=LOT_RATE, slices_per_subject=len(DEPTHS), learning_rate=setting.learning_rate)
    training = dataclasses.replace(TASK.training, learning_rate=setting.learning_rate)
    task = dataclasses.replace(TASK, seed=seed, training=training, privacy=privacy)
    sigma = 0.0
    if setting.epsilon is not None:
        sigma = calibrate(setting.epsilon, delta=privacy.delta, lot_rate=LOT_RATE, steps=STEPS)
    mechanism = Mechanism(sigma, privacy.max_grad_norm, LOT_RATE, members.shape[1])
    weights = pretrained(images)
    for round in range(1, task.rounds + 1):
        updates: list[SiteUpdate] = []
        for number, site in enumerate(SITES):
            model, own = _model(weights), images[number][members[number]]
            if setting.private:
                train_round_privately(
                    model,
                    partial(draw_subject, own),
                    subjects=[str(n) for n in range(len(own))],
                    mechanism=mechanism,
                    noise=insecure_seeded_noise(1000 * seed + 10 * round + number),
                    task=task,
                    round=round,
                )
            else:
                train_round(model, drawing(own), task=task, site=site, round=round)
            updates.append(SiteUpdate(site, weights_of(model), len(own)))
        mean = aggregate(updates, config=FederationConfig())
        weights = {name: value.astype(np.float32) for name, value in mean.items()}
    return _model(weights)


@lru_cache
def pretrained(images: Tensor) -> Weights:
    """The common start: trained without privacy on the public subjects, who are nobody's members."""
    task = dataclasses.replace(
        TASK, rounds=1, training=dataclasses.replace(TASK.training, local_steps=PRETRAINING_STEPS)
    )
    model = build_model(TASK.model, sources=2)
    train_round(model, drawing(images[-1]), task=task, site=PUBLIC, round=1)
    return weights_of(model)


def drawing(subjects: Tensor) -> Draw:
    """Random batches of whole slices of `subjects` (n, slices, 3, SIZE, SIZE)."""
    slices = subjects.flatten(0, 1)

    def draw(generator: torch.Generator, batch_size: int) -> Batch:
        chosen = slices[torch.randint(len(slices), (batch_size,), generator=generator)]
        return Batch(chosen)

    return draw


def draw_subject(subjects: Tensor, subject: str, generator: torch.Generator, batch_size: int) -> Batch:
    """`drawing`, from one of the subjects alone, given by its number."""
    return drawing(subjects[[int(subject)]])(generator, batch_size)


def table(results: Results) -> str:
    """Markdown: AUC of each attack in each setting, with its interval, and how good the models are."""
    lines = ["| training | threshold, AUC | shadow models, AUC | largest AUC that epsilon allows | PSNR, dB |"]
    lines.append("|---|---|---|---|---|")
    for name, setting in SETTINGS.items():
        rows = [results[name, number] for number in range(MODELS)]
        losses, member = (np.array([row[what] for row in rows]).reshape(MODELS, -1) for what in ("losses", "member"))
        cells = [with_interval(scores, member) for scores in (-losses, shadow_scores(losses, member))]
        bound = "1" if setting.epsilon is None else f"{1 / (1 + math.exp(-setting.epsilon)):.4f}"
        lines.append(f"| {' | '.join([name, *cells, bound])} | {np.mean([row['psnr_db'] for row in rows]):.1f} |")
    return "\n".join(lines) + "\n"


def shadow_scores(losses: FloatArray, member: BoolArray) -> FloatArray:
    """(models, subjects): log-likelihood ratio of "in" and "out", learnt from the other pairs of models.

    A model and its complement are left out together: every subject is then in half of the shadow models, whether or
    not it is in the one attacked. A model's mean log loss is taken off, because how good it is tells of nobody.
    """
    scores, logs = np.empty_like(losses), np.log(losses)
    logs -= logs.mean(axis=1, keepdims=True)
    for target in range(len(losses)):
        shadows = np.arange(len(losses)) // 2 != target // 2
        known, inside = logs[shadows], member[shadows]
        mean_in = np.mean(known, axis=0, where=inside)
        mean_out = np.mean(known, axis=0, where=~inside)
        spread_in = np.std((known - mean_in)[inside])
        spread_out = np.std((known - mean_out)[~inside])
        scores[target] = norm.logpdf(logs[target], mean_in, spread_in) - norm.logpdf(logs[target], mean_out, spread_out)
    return scores


def mean_auc(scores: FloatArray, member: BoolArray) -> float:
    """Over models: the probability that a member scores higher than a non-member. (models, subjects) each."""
    areas = []
    for row, inside in zip(scores, member, strict=True):
        if 0 < inside.sum() < len(inside):
            difference = row[inside][:, None] - row[~inside]
            areas.append(np.mean((difference > 0) + 0.5 * (difference == 0)))
    return float(np.mean(areas))


def with_interval(scores: FloatArray, member: BoolArray) -> str:
    """`mean_auc` and its 95 % bootstrap interval, over models and subjects: each is drawn with all its scores."""
    rng, (models, subjects) = np.random.default_rng(0), scores.shape
    areas = []
    for _ in range(BOOTSTRAP):
        drawn = np.ix_(rng.integers(models, size=models), rng.integers(subjects, size=subjects))
        areas.append(mean_auc(scores[drawn], member[drawn]))
    low, high = np.percentile(areas, (2.5, 97.5))
    return f"{mean_auc(scores, member):.2f} ({low:.2f} to {high:.2f})"


def _model(weights: Weights) -> ResUNet:
    model = build_model(TASK.model, sources=2)
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return model


def _permutation(seed: int, site: int) -> Tensor:
    return torch.randperm(SUBJECTS, generator=torch.Generator().manual_seed(100 * seed + site))


def _slices(site: str, index: int) -> npt.NDArray[np.float32]:
    """(slices, 3, SIZE, SIZE)"""
    images = scan_subject(layout="ixi", site=site, index=index, seed=0, grid=SLICES).images
    scaled = [scale_intensity(images[modality].astype(np.float32))[0] for modality in ("T1", "T2", "PD")]
    i, j = ((size - SIZE) // 2 for size in scaled[0].shape[:2])
    return np.stack([volume[i : i + SIZE, j : j + SIZE, DEPTHS] for volume in scaled]).transpose(3, 0, 1, 2)
