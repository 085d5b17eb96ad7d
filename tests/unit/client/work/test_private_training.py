"""What a site's training subjects have to do with each other in a private step: nothing."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agi_core.config.load import read_task
from agi_core.config.schema import PrivacyConfig
from agi_core.data.datasets import Batch, TrainingSlices
from agi_core.privacy import patient_sgd
from agi_core.privacy.noise import NoiseSource
from agi_core.protocol import STATISTICS, Weights, unpack
from client.site.opened import open_site
from client.work import private_training, trainer
from client.work.closed_form import over_own_prior
from client.work.job import Job
from tests.support.requests_by_hand import deployed_site, evaluation_request, small_task, training_request
from tests.support.small_data import write_head

ONE_STEP = ("privacy.epsilon=8", "privacy.trainable=all", "privacy.lot_rate=1", "training.local_steps=1")
TASK = ("model.prior=cubic", "model.alignment=affine", "personal=head", *ONE_STEP)
RULES = "privacy: {ledger: ledger/own.jsonl, ledger_head: head.json, subjects: 9, epsilon: 8, delta: 1.0e-5}\n"


def an_own_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leak: the prior is solved from the training subjects first, as it is where nothing is private."""
    honest = private_training.train_privately

    def over_it(job: Job, *given: Any, **named: Any) -> Weights:
        site, task = dataclasses.replace(job.site, privacy=None), dataclasses.replace(job.task, privacy=PrivacyConfig())
        with over_own_prior(dataclasses.replace(job, site=site, task=task)):
            return honest(job, *given, **named)

    monkeypatch.setattr(private_training, "train_privately", over_it)


def a_common_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leak: a subject's batch has slices of others."""

    def of_all(slices: TrainingSlices, _: str, generator: torch.Generator, batch_size: int) -> Batch:
        return slices.draw(generator, batch_size)

    monkeypatch.setattr(TrainingSlices, "draw_subject", of_all)


def nothing(_: pytest.MonkeyPatch) -> None:
    """The code as it is."""


@pytest.mark.parametrize(("leak", "leaks"), [(nothing, False), (an_own_prior, True), (a_common_batch, True)])
def test_a_subject_is_in_its_own_clipped_gradient_and_in_no_other(
    ixi_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seeded: Callable[[int], NoiseSource],
    leak: Callable[[pytest.MonkeyPatch], None],
    leaks: bool,
) -> None:
    """One subject's scans become those of somebody else; all other gradients of a step stay bit for bit. The same
    comparison finds a leak."""
    leak(monkeypatch)
    clip, clipped = patient_sgd._add_clipped, list[Tensor]()

    def record(sums: Sequence[Tensor], gradients: Sequence[Tensor | None], *, max_grad_norm: float) -> None:
        alone = [torch.zeros_like(total) for total in sums]
        clip(alone, gradients, max_grad_norm=max_grad_norm)
        clipped.append(torch.cat([one.flatten() for one in alone]))
        clip(sums, gradients, max_grad_norm=max_grad_norm)

    def gradients(place: str, *, swapped: str = "") -> dict[str, Tensor]:
        """{training subject: its clipped gradient}, of a new site on a copy of the scans."""
        scans_dir = shutil.copytree(ixi_dir, tmp_path / place / "scans")
        for number, path in enumerate(sorted(scans_dir.glob(f"*/{swapped}-*")) if swapped else []):
            write_head(path, seed=777, contrast=1.5 + number)
        site = open_site(deployed_site(tmp_path / place, scans_dir, rules=RULES))
        task, weights = small_task(*TASK)
        weights["prior.coefficients"] = np.linspace(0.4, -0.2, 10, dtype=np.float32)
        clipped.clear()
        monkeypatch.setattr(private_training, "system_noise", lambda: seeded(1))
        request = training_request(task, weights, deadline_s=3600)
        trainer.answer(site, request, read_task(task), device=torch.device("cpu"))
        return dict(zip(site.scans(read_task(task)).training.subjects, clipped, strict=True))

    monkeypatch.setattr(patient_sgd, "_add_clipped", record)
    before = gradients("before")
    swapped = [*before][1]
    after = gradients("after", swapped=swapped)
    assert [*after] == [*before]
    assert all(gradient.norm() > 0 for gradient in before.values())
    moved = {subject for subject, gradient in before.items() if not torch.equal(gradient, after[subject])}
    assert leaks or swapped in moved
    assert bool(moved - {swapped}) == leaks


def test_that_the_last_who_has_a_modality_is_gone_is_not_told(ixi_dir: Path, tmp_path: Path) -> None:
    """A site offers PD, and one subject has it, or nobody: weights of the same keys leave for the same public number,
    and so does a step of the prior. Both are noise where nobody is there."""
    task, weights = small_task(*TASK, "scenario=T1,T2:PD")
    gram = np.eye(10, dtype=np.float32)
    weights |= {"prior.coefficients": np.linspace(0.4, -0.2, 10, dtype=np.float32), "prior.gram": gram}
    told = []
    for holders in (1, 0):
        folder = tmp_path / str(holders)
        scans_dir = shutil.copytree(ixi_dir, folder / "scans")
        for path in sorted(scans_dir.glob("*/*-PD.nii.gz"))[holders:]:
            path.unlink()
        path = deployed_site(folder, scans_dir, rules=RULES)
        path.write_text(path.read_text().replace("layout: ixi", "layout: ixi, modalities: [T1, T2, PD]"))
        asked = (
            evaluation_request(STATISTICS, task=task, weights=weights, round=0),
            training_request(task, weights, deadline_s=3600),
        )
        replies = [trainer.answer(open_site(path), one, read_task(task), device=torch.device("cpu")) for one in asked]
        for reply in replies:
            assert reply.weights is not None
            assert all(np.isfinite(array).all() for array in unpack(reply.weights).values())
        told.append([(r.num_examples, {*r.metrics}, r.suppressed, r.weights and r.weights.manifest) for r in replies])
    after = unpack(replies[1].weights)  # type: ignore[arg-type]  # asserted above
    assert any(not np.array_equal(array, weights[name]) for name, array in after.items())
    assert told[0] == told[1]
