"""The target on the reference: brought back from a known motion, and nothing learned where it was not imaged."""

import dataclasses

import pytest
import torch

from agi_core.config.load import load_config
from agi_core.config.schema import Task
from agi_core.data.datasets import Batch
from agi_core.network import CPU, Network
from agi_core.readout import features_and_target, voxels
from agi_core.target_alignment import TargetAlignment
from agi_core.training import seen_part, train_round
from tests.support.small_data import SMALL
from tests.support.smooth_images import texture


def task(*settings: str) -> Task:
    assignments = [*SMALL, "scenario='T2,PD:T1'", "reference=PD", "training.align_target=true", *settings]
    return load_config(None, overrides={}, assignments=assignments).task


@pytest.mark.parametrize("neighbours", [0, 1])
def test_a_target_that_moved_comes_back_and_says_what_was_not_imaged(neighbours: int) -> None:
    image = texture(128, 120, detail=10).float()
    target = 0.9 - 0.8 * torch.roll(image, (5, -7), dims=(2, 3)) ** 1.5
    sources = torch.cat([torch.rand_like(image), image], dim=1)
    if neighbours:
        sources = torch.stack([torch.rand_like(sources), sources, torch.rand_like(sources)], dim=2)
    settings = ("model.alignment=affine", f"model.neighbours={neighbours}")
    alignment = TargetAlignment.of(task(*settings))
    assert alignment is not None
    aligned, imaged = alignment(sources, target)
    inner = (..., slice(16, -16), slice(16, -16))
    torch.testing.assert_close(aligned[inner], (0.9 - 0.8 * image**1.5)[inner], rtol=0, atol=0.08)
    assert imaged[inner].all()
    assert not imaged[..., -4:, :].any()  # five rows came from below the picture
    assert not imaged[..., :6].any()


def test_a_volume_moves_as_a_whole_also_where_it_comes_as_slices() -> None:
    """Motion through the plane is undone in training, so statistics and errors have to see it undone as well."""
    volume = texture(32, 40, 40, detail=8).float()
    target = torch.roll(volume, 2, dims=2)
    alignment = TargetAlignment.of(task("model.dims=3", "grid.crop=[32,32,32]", "model.alignment=affine"))
    assert alignment is not None
    sources = torch.cat([torch.rand_like(volume), volume], dim=1)
    whole, imaged = alignment(sources, target)
    slices, imaged_slices = alignment(sources[0].transpose(0, 1), target[0].transpose(0, 1))
    assert torch.equal(slices, whole[0].transpose(0, 1))
    assert torch.equal(imaged_slices, imaged[0].transpose(0, 1))
    inner = slice(8, -8)
    assert (slices[inner] - volume[0].transpose(0, 1)[inner]).abs().mean() < 0.02
    assert (target[0].transpose(0, 1)[inner] - volume[0].transpose(0, 1)[inner]).abs().mean() > 0.06


def test_the_target_stays_where_nobody_asks() -> None:
    assert TargetAlignment.of(task("training.align_target=false")) is None
    assert TargetAlignment.of(dataclasses.replace(task(), training=load_config(None, overrides={}).training)) is None


def test_what_was_not_imaged_costs_nothing_and_has_no_gradient() -> None:
    prediction = torch.rand(1, 1, 4, 4, requires_grad=True)
    imaged = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    imaged[..., :2] = True
    loss = (prediction - seen_part(prediction, torch.zeros(1, 1, 4, 4), imaged)).abs().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert prediction.grad is not None
    assert torch.equal(prediction.grad != 0, imaged)
    assert loss.item() == pytest.approx(prediction[..., :2].sum().item())


def test_training_takes_the_loss_where_the_target_lies_on_the_reference() -> None:
    image = texture(64, 64, detail=10).float()
    batch = Batch(torch.cat([image, image, torch.roll(image, (6, 0), dims=(2, 3))], dim=1))
    sources, target = batch.on(CPU)
    its = task("training.local_steps=1", "model.conv=plain", "rounds=1")
    network, alignment = Network(its), TargetAlignment.of(its)
    assert alignment is not None
    aligned, imaged = alignment(sources, target)
    expected = ((network.predict(sources) - aligned).abs() * imaged).mean()
    (loss,) = train_round(network.module, lambda generator, size: batch, task=its, site="A", round=1)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert not imaged.all()


def test_the_last_layer_is_solved_there_too() -> None:
    """From voxels that were imaged alone: of a target that is the moved reference, the reference itself remains."""
    image = texture(64, 64, detail=10).float()
    batch = Batch(torch.cat([image, image, torch.roll(image, (6, 0), dims=(2, 3))], dim=1))
    sources, target = batch.on(CPU)
    network = Network(task("model.prior=cubic", "personal=head", "model.alignment=affine", "model.neighbours=0"))
    features, target = voxels(*features_and_target(network, sources, target))
    assert features.shape[1] == len(target) < 64 * 64
    reference = features[2]  # 1, T2, PD, ... : the monomials of the aligned sources
    assert (reference - target).abs().mean() < 0.03
