"""The discriminator against a step by hand, and what a round does with it."""

import dataclasses
import statistics

import pytest
import torch
from monai.networks.nets import PatchDiscriminator
from torch import Tensor

from agi_core.adversary import CHANNELS, GAN_WEIGHT, adversarial_loss
from agi_core.config.load import load_config
from agi_core.config.schema import Task, TrainingConfig
from agi_core.data.datasets import Batch
from agi_core.errors import ConfigError
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.training import train_round

CPU = torch.device("cpu")


def batch(generator: torch.Generator, size: int) -> Batch:
    """Rough sources; the target is their product, rough too."""
    sources = torch.rand(size, 2, 32, 32, generator=generator)
    return Batch(torch.cat([sources, sources[:, :1] * sources[:, 1:]], dim=1))


def test_one_call_is_a_step_of_the_discriminator_then_its_verdict() -> None:
    """Against the same two steps by hand."""
    sources, target = batch(torch.Generator().manual_seed(0), 2).on(CPU)
    prediction = (0.5 * target).requires_grad_()
    value = adversarial_loss(sources=2, dims=2, device=CPU, seed=3)(sources, prediction, target)
    value.backward()  # type: ignore[no-untyped-call]

    torch.manual_seed(3)
    discriminator = PatchDiscriminator(2, in_channels=3, channels=CHANNELS, num_layers_d=3, norm="INSTANCE")
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    by_hand = (0.5 * target).requires_grad_()

    def probability(image: Tensor) -> Tensor:
        logits: Tensor = discriminator(torch.cat([sources, image], 1))[-1]
        return torch.sigmoid(logits)

    verdict = -probability(target).log().mean() - (1 - probability(by_hand.detach())).log().mean()
    (verdict / 2).backward()
    optimizer.step()
    expected = -GAN_WEIGHT * probability(by_hand).log().mean()
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(prediction.grad, by_hand.grad, rtol=1e-3, atol=1e-9)
    assert prediction.grad is not None
    assert prediction.grad.any()


def test_its_seed_alone_decides() -> None:
    def first(seed: int) -> Tensor:
        torch.manual_seed(torch.seed())  # the global generator is in no known state
        sources, target = batch(torch.Generator().manual_seed(0), 2).on(CPU)
        loss = adversarial_loss(sources=2, dims=2, device=CPU, seed=seed)
        return loss(sources, target * 0.5, target)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_a_round_trains_the_generator_with_it() -> None:
    def trained(*, adversarial: bool) -> tuple[float, Tensor]:
        training = TrainingConfig(local_steps=3, batch_size=2, adversarial=adversarial)
        model = build_model(ModelConfig(conv="plain", widths=[8, 16]), sources=2, seed=0)
        task = Task(scenario="T1,T2:PD", rounds=1, training=training)
        loss = statistics.fmean(train_round(model, batch, task=task, site="Guys", round=1))
        return loss, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    (loss, weights), (plain_loss, plain_weights) = trained(adversarial=True), trained(adversarial=False)
    assert loss > plain_loss + 0.2 * GAN_WEIGHT
    assert not torch.equal(weights, plain_weights)
    again, _ = trained(adversarial=True)
    assert again == loss


def test_it_is_refused_where_it_cannot_be_kept() -> None:
    config = load_config(None, overrides={"training.adversarial": True})
    assert dataclasses.asdict(config.training)["adversarial"]
    with pytest.raises(ConfigError, match="discriminator sees the subjects without privacy"):
        load_config(None, overrides={"training.adversarial": True, "privacy.epsilon": 8.0})
    with pytest.raises(ConfigError, match=r"grid\.crop=\[16, 32\].*at least 32"):
        load_config(None, overrides={"training.adversarial": True}, assignments=["grid.crop=[16,32]"])
