"""What a network knows of its task, and what it makes of slices of any size."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agi_core.config.schema import GridConfig, Task, TrainingConfig
from agi_core.data.datasets import Batch
from agi_core.errors import MismatchError, ProtocolError, RunError
from agi_core.models.agi_net import build_model
from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.protocol import pack
from agi_core.training import train_round

TASK = Task(scenario="T1,T2,FLAIR:PD", seed=3, model=ModelConfig(widths=(4, 8, 16)))


@pytest.mark.parametrize(("chosen", "reference"), [(None, "FLAIR"), ("T1", "T1"), ("T2", "T2")])
def test_the_reference_is_the_chosen_source_or_the_last(chosen: str | None, reference: str) -> None:
    model = dataclasses.replace(TASK.model, alignment="affine", neighbours=1)
    network = Network(dataclasses.replace(TASK, reference=chosen, model=model))
    assert network.reference == reference
    assert isinstance(network.module.alignment, GroupAlignment)
    assert network.scenario.sources[network.module.alignment.reference] == reference
    assert (network.neighbours, network.volumetric, network.multiple) == (1, False, 4)


def test_weights_follow_from_the_seed_and_are_copied_in() -> None:
    network, again = Network(TASK), Network(TASK)
    expected = build_model(TASK.model, sources=3, seed=3).state_dict()
    assert all((network.weights[name] == tensor.numpy()).all() for name, tensor in expected.items())
    weights = {name: np.full_like(array, 0.5) for name, array in network.weights.items()}
    again.load(weights)
    weights["head.bias"][:] = 7
    assert all((array == 0.5).all() for array in again.weights.values())
    network.load_packed(pack(again.weights))
    assert all((array == 0.5).all() for array in network.weights.values())


def test_weights_of_another_model_are_refused_with_both_hashes() -> None:
    other = Network(dataclasses.replace(TASK, scenario="T1,T2:PD"))
    with pytest.raises(MismatchError, match=r"model hash: the message has [0-9a-f]{12}, this program [0-9a-f]{12}"):
        Network(TASK).load_packed(pack(other.weights))
    with pytest.raises(RunError, match=r"of model [0-9a-f]{12}, .* use the release that wrote them"):
        Network(TASK).load(other.weights)


def test_a_broken_model_that_came_is_refused_and_changes_nothing() -> None:
    network, broken = Network(TASK), Network(TASK).weights
    before = network.weights
    broken["head.bias"][:] = np.nan
    with pytest.raises(ProtocolError, match=r"head\.bias holds a number that is not finite"):
        network.load_packed(pack(broken))
    assert all((network.weights[name] == array).all() for name, array in before.items())


class Recorder(nn.Module):
    """A 1-tap convolution that notes what it is shown, and refuses padding that is not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shapes = nn.Conv2d(3, 1, 1), list[tuple[int, ...]]()

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        assert x[:, :, 13:].abs().sum() == x[..., 18:].abs().sum() == 0
        y: Tensor = self.conv(x)
        return y


def test_slices_are_padded_to_the_multiple_and_cut_back() -> None:
    network, recorder = Network(TASK), Recorder()
    network.module = recorder  # type: ignore[assignment]
    x = torch.rand(2, 3, 13, 18)
    prediction = network.predict(x)
    assert recorder.shapes == [(2, 3, 16, 20)]
    torch.testing.assert_close(prediction, recorder.conv(x).detach())


def test_prediction_is_in_evaluation_mode_and_without_gradients() -> None:
    network, module = Network(TASK), nn.Sequential(nn.Conv2d(3, 1, 1), nn.Dropout(0.9)).train()
    network.module = module  # type: ignore[assignment]
    x = torch.rand(1, 3, 8, 8)
    prediction = network.predict(x)
    assert not prediction.requires_grad
    torch.testing.assert_close(prediction, module[0](x).detach())


def test_several_last_layers_at_once_are_as_exact_as_one_in_the_precision_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An image with its expected error was another image: the prior's terms are large, and were rounded."""
    monkeypatch.setattr("agi_core.network.autocast", lambda _: torch.autocast("cpu", torch.bfloat16))
    network = Network(Task(scenario="T1,T2:PD", model=ModelConfig(conv="plain", widths=(4, 8), prior="cubic")))
    network.set_prior(np.random.default_rng(0).normal(scale=3, size=10))
    sources = torch.rand(2, 2, 13, 18)
    both = network.read_out(np.stack([network.readout, 2 * network.readout]), sources)
    prediction = network.predict(sources)
    torch.testing.assert_close(both, torch.cat([prediction, 2 * prediction], dim=1), rtol=0, atol=1e-4)


def test_a_window_that_covers_the_volume_is_one_direct_pass() -> None:
    """Centred in zeros, without the empty slices at both ends."""
    task = Task(scenario="T1,T2:PD", model=ModelConfig(dims=3, widths=(4, 8)), grid=GridConfig(crop=(16, 16, 8)))
    network = Network(task)
    assert network.volumetric
    sources = torch.zeros(9, 2, 10, 13)  # D, M, H, W
    sources[2:8] = torch.rand(6, 2, 10, 13)
    prediction = network.predict(sources)
    padded = F.pad(sources[2:8].transpose(0, 1)[None], (1, 2, 3, 3, 1, 1))
    with torch.inference_mode():
        expected = network.module(padded)[0, 0, 1:7, 3:13, 1:14]
    torch.testing.assert_close(prediction[2:8, 0], expected)
    assert not prediction[[0, 1, 8]].any()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of Dynamo's own look at the aligned sources
@pytest.mark.slow  # Dynamo takes seconds
@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(conv="plain", widths=(4,), prior="cubic"),
        ModelConfig(widths=(8,)),
        ModelConfig(conv="plain", widths=(4,), alignment="affine"),
        ModelConfig(widths=(8,), alignment="dense", neighbours=1),
    ],
    ids=["plain", "cagr", "affine", "the default"],
)
def test_compiled_training_is_one_graph_and_ends_with_the_same_weights(config: ModelConfig) -> None:
    size = (2 * config.neighbours + 1,) * (config.neighbours > 0) + (16, 16)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    def draw(generator: torch.Generator, batch_size: int) -> Batch:
        sources = torch.rand((batch_size, 2, *size), generator=generator)
        images = torch.cat([sources, sources.mean(dim=1, keepdim=True)], dim=1)
        return Batch(images, neighbours=config.neighbours)

    task = Task(scenario="T1,T2:PD", model=config, training=TrainingConfig(local_steps=2, batch_size=2))
    plain, compiled = Network(task), Network(task)
    compiled.compile(backend)
    for network in (plain, compiled):
        train_round(network.module, draw, task=task, site="A", round=1)
    assert len(graphs) == 1
    sources = torch.rand(1, 2, *size[:-2], 20, 24)
    torch.testing.assert_close(compiled.predict(sources), plain.predict(sources), rtol=0, atol=1e-3)
    assert len(graphs) == 1
    assert [*compiled.weights] == [*plain.weights]
    if config.conv == "cagr":  # a graph has one path for all sizes, and other last digits
        return
    for name, array in plain.weights.items():
        np.testing.assert_array_equal(compiled.weights[name], array)
