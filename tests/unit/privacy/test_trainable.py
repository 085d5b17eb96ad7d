"""The parts of the real networks, and that nothing but the chosen one moves."""

import dataclasses

import numpy as np
import pytest
import torch

from agi_core.config.load import load_config
from agi_core.data.datasets import Batch
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.network import weights_of
from agi_core.privacy.noise import system_noise
from agi_core.privacy.patient_sgd import Mechanism
from agi_core.privacy.trainable import PARTS, parameters_of, training_only
from agi_core.protocol import pack
from agi_core.training import train_round, train_round_privately
from tests.support.small_data import SMALL


def draw(generator: torch.Generator, batch_size: int) -> Batch:
    sources = torch.rand((batch_size, 2, 16, 16), generator=generator)
    return Batch(torch.cat([sources, sources[:, :1]], dim=1))


def draw_subject(subject: str, generator: torch.Generator, batch_size: int) -> Batch:
    return draw(generator, batch_size)


def test_the_parts_by_hand() -> None:
    """A plain network of two widths: encoder blocks 0 and 1, decoder block 0, head."""
    model = build_model(ModelConfig(conv="plain", widths=(8, 16)), sources=2)
    norms = {f"{block}.norm{i}.{kind}" for block in ("encoder.0", "encoder.1", "decoder.0") for i in (1, 2)
             for kind in ("weight", "bias")}  # fmt: skip
    head = {"head.weight", "head.bias"}
    convolutions = {"decoder.0.conv1.weight", "decoder.0.conv2.weight", "decoder.0.skip.weight"}
    assert set(parameters_of("norms", model)) == norms | head | {"encoder.0.conv1.weight"}
    last = {name for name in norms if name.startswith("decoder.0")} | convolutions | head
    assert set(parameters_of("last", model)) == last
    assert set(parameters_of("all", model)) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("part", PARTS)
def test_a_prior_is_in_no_part(part: str) -> None:
    """Its coefficients are solved. A private step would add noise to them at every site."""
    config = ModelConfig(conv="plain", widths=(8, 16), adapters=2)
    model = build_model(dataclasses.replace(config, prior="cubic"), sources=2)
    assert set(parameters_of(part, model)) == set(parameters_of(part, build_model(config, sources=2)))


def test_the_adapters_by_hand() -> None:
    model = build_model(ModelConfig(conv="plain", widths=(8, 16), adapters=2), sources=2)
    blocks = ("encoder.0", "encoder.1", "decoder.0")
    adapters = {f"{block}.adapter.{name}" for block in blocks for name in ("0.weight", "0.bias", "2.weight")}
    assert set(parameters_of("adapters", model)) == adapters | {"head.weight", "head.bias"}
    counts = {name: parameter.numel() for name, parameter in parameters_of("adapters", model).items()}
    # down: 2 x (2 + 8 + 24) inputs and 2 biases each; up: 2 x (8 + 16 + 8) outputs; head: 8 and its bias
    assert sum(counts.values()) == 2 * 34 + 2 * 3 + 2 * 32 + 9


def test_the_last_block_is_the_finest_and_a_net_without_decoder_has_a_head() -> None:
    model = build_model(ModelConfig(widths=(4, 8, 16)), sources=2)
    assert {name.split(".conv")[0] for name in parameters_of("last", model) if ".conv" in name} == {"decoder.1"}
    assert set(parameters_of("last", build_model(ModelConfig(conv="plain", widths=(4,)), sources=2))) == {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize("conv", ["cagr", "plain"])
@pytest.mark.parametrize("part", list(PARTS))
def test_a_private_round_moves_the_part_and_nothing_else(part: str, conv: str) -> None:
    assignments = [*SMALL, f"model.conv={conv}", "model.adapters=2", "privacy.epsilon=8", f"privacy.trainable={part}"]
    task = load_config(None, overrides={}, assignments=assignments).task
    model = build_model(task.model, sources=2)
    before = {name: array.copy() for name, array in weights_of(model).items()}
    mechanism = Mechanism(1.0, 1.0, 0.5, 3)
    train_round_privately(
        model, draw_subject, subjects=["a", "b", "c"], mechanism=mechanism, noise=system_noise(), task=task, round=1
    )
    chosen, after = parameters_of(part, model), weights_of(model)
    assert set(after) == set(before)
    for name, array in after.items():
        if name in chosen:
            assert (array != before[name]).mean() > 0.99, name
        else:
            np.testing.assert_array_equal(array, before[name])

    train_round(model, draw, task=task, site="Guys", round=1)  # the same model, for a task that is not private
    moved = weights_of(model)
    assert all((moved[name] != array).any() for name, array in before.items())


def test_what_was_frozen_before_stays_frozen_afterwards_also_after_an_error() -> None:
    model = build_model(ModelConfig(conv="plain", widths=(8, 16)), sources=2)
    model.head.requires_grad_(False)

    def fail() -> None:
        with training_only("norms", model) as chosen:
            assert all(parameter.requires_grad for parameter in chosen)
            assert sum(parameter.requires_grad for parameter in model.parameters()) == len(chosen)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {"head.weight", "head.bias"}


def test_a_round_of_much_noise_moves_no_further_than_one_of_little() -> None:
    """With nobody in any lot: the length of a step does not follow the noise."""
    assignments = [*SMALL, "model.conv=plain", "privacy.epsilon=8", "privacy.trainable=all"]
    task = load_config(None, overrides={}, assignments=assignments).task

    def moved(sigma: float) -> float:
        model = build_model(task.model, sources=2)
        before = pack(weights_of(model)).arrays["float32"]
        mechanism = Mechanism(sigma, 1.0, 0.5, 3)
        train_round_privately(
            model, draw_subject, subjects=[], mechanism=mechanism, noise=system_noise(), task=task, round=1
        )
        return float(np.linalg.norm(pack(weights_of(model)).arrays["float32"] - before))

    little = moved(1.0)
    assert little > 0
    assert moved(100.0) == pytest.approx(little, rel=0.1)
