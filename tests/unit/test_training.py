import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agi_core.config.schema import GridConfig, PrivacyConfig, Task, TrainingConfig
from agi_core.data.datasets import Batch, TrainingSlices
from agi_core.errors import RunError
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.network import CPU
from agi_core.privacy.noise import NoiseSource
from agi_core.privacy.patient_sgd import Mechanism
from agi_core.schedule import learning_rate
from agi_core.training import rehearse_privately, site_generator, train_round, train_round_privately
from tests.support.cache_entries import write_entry


def task(**training: float) -> Task:
    settings = {"local_steps": 30, "batch_size": 4, "learning_rate": 0.02, **training}
    return Task(scenario="T1,T2:PD", seed=5, rounds=3, training=TrainingConfig(**settings))  # type: ignore[arg-type]


def draw(generator: torch.Generator, batch_size: int) -> Batch:
    """The target is a blend of the sources, so one convolution can learn it."""
    sources = torch.rand((batch_size, 2, 16, 16), generator=generator)
    return Batch(torch.cat([sources, 0.7 * sources[:, :1] + 0.2 * sources[:, 1:] + 0.05], dim=1))


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(4, 1, 1))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_the_proximal_term_holds_back_and_not_before_something_moved() -> None:
    """FedProx: its gradient mu (w - w0) is 0 in the first step, and outweighs the loss later."""
    start, moved = weights(small_model()), {}
    for steps, proximal in ((1, 0.0), (1, 100.0), (30, 0.0), (30, 100.0)):
        model = small_model()
        train_round(model, draw, task=task(local_steps=steps, proximal=proximal), site="Guys", round=1)
        moved[steps, proximal] = weights(model) - start
    assert torch.equal(moved[1, 0.0], moved[1, 100.0])
    assert moved[30, 100.0].norm() < 0.2 * moved[30, 0.0].norm()


# LEARNING RATE


@pytest.mark.parametrize(
    ("round", "step", "expected"),
    [
        (1, 0, 0.25),  # step 1 of 10; warm-up over the first 4
        (1, 2, 0.75),
        (1, 3, 1.0),  # the warm-up ends
        (2, 1, 0.5 * (1 + math.cos(math.pi * 0.99 / 2))),  # step 7: half of the rest
        (2, 4, 0.5 * (1 + math.cos(math.pi * 0.99))),  # the last step
    ],
)
def test_learning_rate_by_hand(round: int, step: int, expected: float) -> None:
    training = TrainingConfig(local_steps=5, learning_rate=1.0, warmup=0.4)
    assert learning_rate(training, rounds=2, round=round, step=step) == pytest.approx(expected)


@given(
    rounds=st.integers(1, 6),
    steps=st.integers(1, 6),
    warmup=st.one_of(st.just(0.0), st.just(1.0), st.floats(0.01, 0.99)),
)
def test_learning_rate_rises_then_falls_and_is_never_zero(rounds: int, steps: int, warmup: float) -> None:
    training = TrainingConfig(local_steps=steps, learning_rate=0.01, warmup=warmup)
    rates = [
        learning_rate(training, rounds=rounds, round=round, step=step)
        for round in range(1, rounds + 1)
        for step in range(steps)
    ]
    assert all(0 < rate <= 0.01 for rate in rates)
    peak = int(np.argmax(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


# RANDOMNESS


def test_site_generator_depends_on_each_input_and_on_nothing_else() -> None:
    def first(seed: int, site: str, round: int) -> float:
        return float(torch.rand((), generator=site_generator(seed=seed, site=site, round=round), dtype=torch.float64))

    reference = first(1, "Guys", 2)
    torch.manual_seed(9)
    assert first(1, "Guys", 2) == reference
    others = [first(2, "Guys", 2), first(1, "HH", 2), first(1, "Guys", 3), first(12, "Guys", 1), first(1, "2Guys", 2)]
    assert len({reference, *others}) == 6


# A ROUND


def test_a_round_lowers_the_loss_and_reports_each_step() -> None:
    model, losses = small_model(), []
    told = train_round(
        model,
        draw,
        task=task(),
        site="Guys",
        round=1,
        on_step=lambda step, steps, loss: losses.append((step, steps, loss)),
    )
    assert [(step, steps) for step, steps, _ in losses] == [(step, 30) for step in range(1, 31)]
    values = [loss for *_, loss in losses]
    assert len(told) == 30
    assert sum(told) / 30 < 0.7 * values[0]
    assert values[-1] < 0.5 * values[0]


def test_a_round_is_a_function_of_weights_seed_site_and_round() -> None:
    def trained(site: str = "Guys", round: int = 1) -> Tensor:
        model = small_model()
        torch.manual_seed(torch.seed())  # the global generator is in no known state
        train_round(model, draw, task=task(local_steps=3), site=site, round=round)
        return weights(model)

    assert torch.equal(trained(), trained())
    assert not torch.equal(trained(), trained(site="HH"))
    assert not torch.equal(trained(), trained(round=2))


def test_one_step_is_adam_on_the_l1_loss() -> None:
    """Against torch's optimiser, with the schedule's first rate and the batch of the site's generator."""
    model, oracle = small_model(), small_model()
    configuration = task(local_steps=1, warmup=0.0, weight_decay=0.1)
    train_round(model, draw, task=configuration, site="Guys", round=2)
    sources, target = draw(site_generator(seed=5, site="Guys", round=2), 4).on(CPU)
    rate = learning_rate(configuration.training, rounds=3, round=2, step=0)
    optimizer = torch.optim.AdamW(oracle.parameters(), lr=rate, weight_decay=0.1)
    F.l1_loss(oracle(sources), target).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    torch.testing.assert_close(weights(model), weights(oracle), rtol=0, atol=1e-7)


def test_the_ssim_term_is_monais() -> None:
    from monai.losses import SSIMLoss

    model = small_model()
    sources, target = draw(site_generator(seed=5, site="Guys", round=1), 4).on(CPU)
    prediction = model(sources).detach()
    ssim = float(SSIMLoss(spatial_dims=2, data_range=1.0)(prediction, target))
    l1 = float(F.l1_loss(prediction, target))
    (loss,) = train_round(model, draw, task=task(local_steps=1, ssim_weight=0.3), site="Guys", round=1)
    assert loss == pytest.approx(l1 + 0.3 * ssim, abs=1e-6)
    assert ssim > 0.01


def test_a_network_with_neighbours_is_trained_on_slabs() -> None:
    """Motion-free slabs of one slice train the network to the weights that the slices themselves do."""
    config = ModelConfig(conv="plain", widths=(4,), alignment="affine", neighbours=1)

    def slices(generator: torch.Generator, batch_size: int) -> Batch:
        sources = torch.rand((batch_size, 2, 48, 48), generator=generator)
        return Batch(torch.cat([sources, sources.mean(dim=1, keepdim=True)], dim=1))

    def slabs(generator: torch.Generator, batch_size: int) -> Batch:
        return Batch(slices(generator, batch_size).images[:, :, None].expand(-1, -1, 3, -1, -1), neighbours=1)

    results = []
    for model_config, drawn in ((replace(config, neighbours=0), slices), (config, slabs)):
        model = build_model(model_config, sources=2, seed=1)
        training = TrainingConfig(local_steps=3, batch_size=2)
        one = Task(scenario="T1,T2:PD", rounds=1, model=model_config, training=training)
        train_round(model, drawn, task=one, site="Guys", round=1)
        results.append(weights(model))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-4)


def without_target(batch: Batch) -> Batch:
    return Batch(torch.cat([batch.images[:, :-1], torch.full_like(batch.images[:, -1:], math.inf)], dim=1))


def test_a_loss_that_is_not_finite_stops_the_round() -> None:
    def broken(generator: torch.Generator, batch_size: int) -> Batch:
        return without_target(draw(generator, batch_size))

    with pytest.raises(RunError, match=r"inf at HH in round 2, step 1; .*lower training\.learning_rate"):
        train_round(small_model(), broken, task=task(), site="HH", round=2)


def test_a_loss_that_is_not_finite_is_named_by_its_step_though_it_is_read_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agi_core.training.READ_EVERY_S", math.inf)
    drawn: list[Batch] = []

    def broken_at_the_third(generator: torch.Generator, batch_size: int) -> Batch:
        batch = draw(generator, batch_size)
        drawn.append(without_target(batch) if len(drawn) == 2 else batch)
        return drawn[-1]

    with pytest.raises(RunError, match="step 3;"):
        train_round(small_model(), broken_at_the_third, task=task(local_steps=5), site="HH", round=1)
    assert len(drawn) == 5


# WAITING


WAITS = {
    "_local_scalar_dense": "the program asks for a number: item(), float(), an if",
    "_linalg_check_errors": "so it does to raise an error: torch.linalg.solve",
    "nonzero": "or to know a shape",
    "masked_select": "the same",
    "_unique2": "the same",
    "repeat_interleave": "the same",
    "an index of bools": "the same; a GPU calls nonzero for it, a CPU does not",
    "lift_fresh": "a number of the program is copied: new_tensor, tensor, an index that is a list",
    "to": "a tensor is copied to a device, and the program waits for that: without non_blocking",
    "cpu": "the same",
    "tolist": "the same",
    "numpy": "the same",
}
"""What makes a GPU wait for the program or the program for it, as torch's CPU shows it too."""


class Copies(TorchFunctionMode):
    """Tells of each copy to a device, or to the program, for which the program waits. On a CPU such a call ends above
    the operations."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        devices = [value for value in (*args[1:], *given.values()) if isinstance(value, (torch.device, str))]
        if func is Tensor.to and devices and not given.get("non_blocking"):
            self.tell("to")
        if func in (Tensor.cpu, Tensor.tolist) or (func is Tensor.numpy and given.get("force")):  # else only of a CPU's
            self.tell(func.__name__)
        return func(*args, **given)


class Waits(TorchDispatchMode):
    """Lists what of `WAITS` is called between a draw and the optimiser's step."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.within = False
        self.copies = Copies(self._tell)

    def _tell(self, name: str) -> None:
        if self.within:
            self.found.append(name)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS:
            self._tell(name)
        if name.startswith("index") and any(getattr(one, "dtype", None) == torch.bool for one in tree_leaves(args[1:])):
            self._tell("an index of bools")
        return func(*args, **(kwargs or {}))

    def draw(self, shape: tuple[int, ...], generator: torch.Generator, batch_size: int) -> Batch:
        """Sources (batch_size, *shape), and their mean as the target, without neighbours."""
        self.within = False
        sources = torch.rand((batch_size, *shape), generator=generator)
        images = torch.cat([sources, sources.mean(dim=1, keepdim=True)], dim=1)
        self.within = True
        return Batch(images, neighbours=len(shape) - 3)


@contextmanager
def waits() -> Iterator[Waits]:
    with Waits() as found, found.copies:
        hook = register_optimizer_step_pre_hook(lambda *_: setattr(found, "within", False))
        try:
            yield found
        finally:
            hook.remove()


NETWORKS = {
    "plain": ModelConfig(conv="plain", widths=(8, 8)),
    "cagr": ModelConfig(widths=(8, 8)),
    "affine": ModelConfig(conv="plain", widths=(4,), alignment="affine"),
    "the default": ModelConfig(widths=(8, 8), alignment="dense", neighbours=1),
}


@pytest.mark.parametrize(("name", "ssim_weight"), [*((name, 0.0) for name in NETWORKS), ("plain", 0.5)])
def test_nothing_makes_a_gpu_wait_between_batch_and_optimiser(name: str, ssim_weight: float) -> None:
    config = NETWORKS[name]
    shape = (2, 3, 32, 32) if config.neighbours else (2, 32, 32)
    one = Task(model=config, training=TrainingConfig(local_steps=2, batch_size=2, ssim_weight=ssim_weight))
    with waits() as found:
        train_round(build_model(config, sources=2), partial(found.draw, shape), task=one, site="Guys", round=1)
    assert found.found == []


MISTAKES: dict[str, Callable[[Tensor], object]] = {
    "_local_scalar_dense": lambda image: image.mean().item(),
    "_linalg_check_errors": lambda image: torch.linalg.solve(torch.eye(2), image.new_ones(2)),
    "nonzero": lambda image: image.nonzero(),
    "masked_select": lambda image: image.masked_select(image > 0),
    "_unique2": lambda image: image.unique(),
    "repeat_interleave": lambda image: image.repeat_interleave(torch.ones(len(image), dtype=torch.int64), dim=0),
    "an index of bools": lambda image: image[image > 0],
    "lift_fresh": lambda image: image[[0, 0]],
    "to": lambda image: image.to("cpu"),
    "cpu": lambda image: image.cpu(),
    "tolist": lambda image: image.tolist(),
    "numpy": lambda image: image.numpy(force=True),
}


@pytest.mark.parametrize("name", WAITS)
def test_each_mistake_would_be_seen(name: str) -> None:
    """In the forward pass, where somebody would make it."""
    config = NETWORKS["plain"]
    network = build_model(config, sources=2)
    network.register_forward_hook(lambda *passed: (MISTAKES[name](passed[2].detach()), None)[1])
    one = Task(model=config, training=TrainingConfig(local_steps=1, batch_size=2))
    with waits() as found:
        train_round(network, partial(found.draw, (2, 32, 32)), task=one, site="Guys", round=1)
    assert name in found.found


def test_a_private_step_makes_no_gpu_wait(seeded: Callable[[int], NoiseSource]) -> None:
    config = NETWORKS["plain"]
    private = PrivacyConfig(epsilon=8, trainable="all")
    one = Task(model=config, training=TrainingConfig(local_steps=2), privacy=private)
    with waits() as found:
        train_round_privately(
            build_model(config, sources=2),
            lambda _, generator, slices: found.draw((2, 32, 32), generator, slices),
            subjects=["A", "B", "C"],
            mechanism=Mechanism(1.0, 1.0, 1.0, 3),
            noise=seeded(0),
            task=one,
            round=1,
        )
    assert found.found == []


# THE SAME TWICE


NOT_DETERMINISTIC = frozenset(
    {
        *("grid_sampler_2d_backward", "grid_sampler_3d_backward", "_adaptive_avg_pool2d_backward"),
        *("_adaptive_avg_pool3d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward", "cumsum"),
        *("upsample_bilinear2d_backward", "upsample_trilinear3d_backward", "upsample_bicubic2d_backward"),
        *("median", "histc", "bincount", "put_", "nll_loss_forward", "nll_loss2d_forward", "max_unpool2d"),
    }
)
"""What PyTorch refuses on a GPU with `deterministic=true`. `avg_pool3d_backward` is taken out of the way there."""


class Names(TorchDispatchMode):
    """The operations that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.found.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "extra"), [*((name, "align_target") for name in NETWORKS), ("plain", "adversarial")])
def test_all_that_a_step_does_can_be_deterministic_on_a_gpu(name: str, extra: str) -> None:
    config = NETWORKS[name]
    shape = (2, 3, 32, 32) if config.neighbours else (2, 32, 32)
    training = replace(TrainingConfig(local_steps=1, batch_size=2, ssim_weight=1.0, proximal=0.1), **{extra: True})
    one = Task(scenario="T1,T2:PD", reference="T1", model=config, training=training)
    with waits() as drawn, Names() as names:
        train_round(build_model(config, sources=2), partial(drawn.draw, shape), task=one, site="Guys", round=1)
    assert "convolution_backward" in names.found
    assert not names.found & NOT_DETERMINISTIC


# VOLUMES


VOLUMES = ModelConfig(dims=3, widths=(4, 8))
PATCH = (16, 20, 12)


def patches(tmp_path: Path) -> TrainingSlices:
    """One subject smaller than the patch, so that every draw is the same patch: the whole volume, centred in zeros."""
    volume = np.random.default_rng(0).random((10, 3, 15, 18), dtype=np.float32)
    return TrainingSlices([write_entry(tmp_path / "IXI003", volume)], crop=PATCH)


def test_a_round_on_patches_has_the_ssim_of_volumes(tmp_path: Path) -> None:
    from monai.losses import SSIMLoss

    slices, model = patches(tmp_path), build_model(VOLUMES, sources=2)
    sources, target = slices.draw(torch.Generator(), 2).on(CPU)
    with torch.no_grad():
        prediction = model(sources)
    expected = F.l1_loss(prediction, target) + SSIMLoss(spatial_dims=3)(prediction, target)
    training = TrainingConfig(local_steps=1, batch_size=2, ssim_weight=1.0)
    (loss,) = train_round(model, slices.draw, task=Task(model=VOLUMES, training=training), site="Guys", round=1)
    assert loss == pytest.approx(float(expected), abs=1e-6)


def test_a_private_step_on_patches_is_a_plain_one_without_noise_and_clip(
    tmp_path: Path, seeded: Callable[[int], NoiseSource]
) -> None:
    slices, model, oracle = patches(tmp_path), build_model(VOLUMES, sources=2), build_model(VOLUMES, sources=2)
    training = TrainingConfig(local_steps=1, warmup=0.0)
    private = PrivacyConfig(epsilon=8, learning_rate=0.1, trainable="all")
    configuration = Task(model=VOLUMES, training=training, privacy=private)
    train_round_privately(
        model,
        slices.draw_subject,
        subjects=slices.subjects,
        mechanism=Mechanism(noise_multiplier=0, max_grad_norm=1e6, lot_rate=1.0, subjects=1),
        noise=seeded(1),
        task=configuration,
        round=1,
    )
    sources, target = slices.draw(torch.Generator(), 1).on(CPU)
    F.l1_loss(oracle(sources), target).backward()  # type: ignore[no-untyped-call]
    rate = 0.1 * learning_rate(training, rounds=configuration.rounds, round=1, step=0) / training.learning_rate
    torch.optim.AdamW(oracle.parameters(), lr=rate, weight_decay=0.0).step()
    torch.testing.assert_close(weights(model), weights(oracle), rtol=0, atol=1e-6)
    assert not torch.equal(weights(model), weights(build_model(VOLUMES, sources=2)))


@pytest.mark.parametrize(
    ("model", "crop"),
    [
        (ModelConfig(widths=(8, 16)), (16, 32)),
        (ModelConfig(widths=(8, 16), alignment="affine", neighbours=1), (32, 32)),
        (VOLUMES, (16, 32, 16)),
    ],
)
def test_a_rehearsal_has_the_shapes_of_a_subject_and_changes_nothing(model: ModelConfig, crop: tuple[int, ...]) -> None:
    privacy = PrivacyConfig(epsilon=8, slices_per_subject=3)
    configuration = Task(scenario="T1,T2:PD", model=model, grid=GridConfig(crop=crop), privacy=privacy)
    network, seen = build_model(model, sources=2), list[tuple[int, ...]]()
    network.register_forward_hook(lambda _, inputs, output: seen.extend((tuple(inputs[0].shape), tuple(output.shape))))
    before = weights(network).clone()
    assert rehearse_privately(network, task=configuration) > 0
    space = crop if model.dims == 2 else (crop[2], *crop[:2])
    assert seen == [(3, 2, *((3,) if model.neighbours else ()), *space), (3, 1, *space)]
    torch.testing.assert_close(weights(network), before, rtol=0, atol=0)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(("scale", "lowest", "highest"), [(1.0, 0.3, 0.8), (1e-9, 0.9999, 1.0)])
def test_an_update_is_the_gradient_itself_where_weights_are_made_for_it(
    scale: float, lowest: float, highest: float
) -> None:
    """An update without noise hides all but the gradient's signs. With a head scaled by 1e-9 it hides nothing, because
    the gradients lie below AdamW's epsilon."""
    batch = draw(torch.Generator().manual_seed(0), 1)
    model = build_model(ModelConfig(conv="plain", widths=(8, 16)), sources=2, seed=1)
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(scale)
    body = [parameter for name, parameter in model.named_parameters() if not name.startswith("head.")]
    sources, target = batch.on(CPU)
    gradients = torch.autograd.grad(F.l1_loss(model(sources), target), body)
    before = [parameter.detach().double().clone() for parameter in body]
    train_round(model, lambda _, size: batch, task=task(local_steps=1), site="Guys", round=1)
    update = torch.cat([(old - new.detach()).flatten() for old, new in zip(before, body, strict=True)])
    gradient = torch.cat([gradient.double().flatten() for gradient in gradients])
    assert lowest < float(update @ gradient / (update.norm() * gradient.norm())) <= highest + 1e-9
