"""AGI-Net against a literal reading of its equations, and the promises of `build_model`."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise, product
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from agi_core.errors import ConfigError
from agi_core.models.agi_net import SMALL_SAMPLE, CagrConv, build_model
from agi_core.models.cross_group_attention import CrossGroupAttention
from agi_core.models.group_rolling import Routing
from agi_core.models.model_config import ModelConfig
from benchmarks.counted import counted

CONVOLVE = {2: F.conv2d, 3: F.conv3d}


def cagr_parts(model: nn.Module) -> Iterator[tuple[CagrConv, CrossGroupAttention, Routing]]:
    """Every CAGR convolution of the network with its attention and its routing, which are on."""
    for conv in model.modules():
        if isinstance(conv, CagrConv):
            assert conv.attention
            assert conv.routing
            yield conv, conv.attention, conv.routing


TINY = {2: ModelConfig(widths=(8, 16)), 3: ModelConfig(dims=3, widths=(8, 16))}


AnyModule = TypeVar("AnyModule", bound=nn.Module)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def randomise(module: AnyModule) -> AnyModule:
    """Leave the initial state, in which attention and routing do nothing."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return module


def literal_roll(w: Tensor, offset: Tensor, axis: int, interpolation: str) -> Tensor:
    if interpolation == "fourier":
        along_axis = [-1 if a == axis else 1 for a in range(w.dim())]
        frequencies = torch.fft.rfftfreq(3, dtype=torch.float64).reshape(along_axis)
        shifted = torch.fft.rfft(w, dim=axis) * torch.exp(-2j * torch.pi * frequencies * offset)
        rolled: Tensor = torch.fft.irfft(shifted, 3, dim=axis)
        return rolled
    floor = int(torch.floor(offset))
    fraction = offset - floor
    return (1 - fraction) * torch.roll(w, floor, axis) + fraction * torch.roll(w, floor + 1, axis)


def literal_shift(w: Tensor, offset: Tensor, axis: int) -> Tensor:
    """A roll within zeros that are cut off again."""
    zeros = torch.zeros_like(w)
    padded = torch.cat([zeros, w, zeros], axis)
    return literal_roll(padded, offset, axis, "linear").narrow(axis, 3, 3)


def literal_cagr(conv: CagrConv, x: Tensor, config: ModelConfig) -> Tensor:
    """The equations of the paper as reconstructed, one sample, one group and one axis at a time."""
    outputs = []
    for sample in x:
        attended: Tensor = sample
        kernel: Tensor = conv.weight
        if conv.attention:
            n, size, _ = conv.attention.weight.shape
            z = sample.flatten(1).mean(1)
            shuffled = torch.stack([z[group * size + j] for j in range(size) for group in range(n)])
            shuffled = shuffled if config.shuffle else z
            logits = []
            for g in range(n):
                of_group = slice(g * size, (g + 1) * size)
                logits.append(conv.attention.weight[g] @ torch.cat([z[of_group], shuffled[of_group]]))
            attention = torch.sigmoid(torch.cat(logits) + conv.attention.bias)
            attended = torch.stack([a * channel for a, channel in zip(attention, sample, strict=True)])
        if conv.routing:
            r = conv.routing
            y = CONVOLVE[config.dims](attended[None], r.depthwise.weight, padding=1, groups=len(sample))[0]
            y = (y - y.mean()) / torch.sqrt(y.var(unbiased=False) + 1e-5)
            y = torch.stack([g * v + b for g, v, b in zip(r.norm.weight, y, r.norm.bias, strict=True)])
            h = torch.relu(y).flatten(1).mean(1)
            scale = 2 * torch.sigmoid(r.scale.weight @ h) if r.scale else torch.ones(r.groups)
            offset = (
                config.max_offset * F.softsign(r.offset.weight @ h) if r.offset else torch.zeros(r.groups * config.dims)
            )
            parts = []
            for g, part in enumerate(kernel.chunk(len(scale), dim=1)):
                for axis in range(config.dims):
                    d = offset[g * config.dims + axis]
                    if config.shift == "open":
                        part = literal_shift(part, d, 2 + axis)
                    else:
                        part = literal_roll(part, d, 2 + axis, config.interpolation)
                parts.append(scale[g] * part)
            kernel = torch.cat(parts, dim=1)
        outputs.append(CONVOLVE[config.dims](attended[None], kernel, padding=1))
    return torch.cat(outputs)


SMALL_AND_LARGE: dict[int, list[tuple[int, ...]]] = {2: [(7, 9), (52, 50)], 3: [(4, 5, 6), (52, 50, 2)]}


@pytest.mark.parametrize(
    ("dims", "large", "options"),
    [
        *product([2, 3], [False, True], [{}, {"interpolation": "fourier", "max_offset": 1.5}]),
        (2, False, {"attention": False}),
        (2, True, {"rolling": False}),
        (3, False, {"rolling": False}),
        (2, False, {"shuffle": False}),
        (2, False, {"shift": "open", "max_offset": 1.5}),
        (3, False, {"shift": "open"}),
        (2, True, {"shift": "none"}),
        (2, False, {"scaling": False}),
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_cagr_is_its_equations(
    dims: int, large: bool, options: dict[str, object], apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, and in the way of a GPU, where samples do not go one by one."""
    monkeypatch.setattr("agi_core.models.agi_net.one_by_one", lambda x: apart)
    config = ModelConfig(dims=dims, **options)  # type: ignore[arg-type]
    space = SMALL_AND_LARGE[dims][large]
    assert (8 * space[0] * space[1] > SMALL_SAMPLE) == large
    conv = randomise(CagrConv(8, 4, groups=4, config=config).double())
    x, x_literal = (random(3, 8, *space).requires_grad_() for _ in range(2))
    upstream = random(3, 4, *space, seed=1)

    y = conv(x)
    parameters = dict(conv.named_parameters())
    gradients = torch.autograd.grad(y, [x, *parameters.values()], upstream)
    expected = literal_cagr(conv, x_literal, config)
    expected_gradients = torch.autograd.grad(expected, [x_literal, *parameters.values()], upstream)

    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    for name, actual, wanted in zip(["x", *parameters], gradients, expected_gradients, strict=True):
        assert wanted.abs().max() > 1e-6, name
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9 * wanted.abs().max().item(), msg=name)


def test_a_gpu_gets_as_many_operations_however_many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agi_core.models.agi_net.one_by_one", lambda x: False)
    model = build_model(TINY[2], sources=2)
    parameters = [*model.parameters()]
    counts = []
    for samples in (2, 5):
        x = torch.rand(samples, 2, 16, 16)
        counts.append(counted(lambda x=x: torch.autograd.grad(model(x).sum(), parameters)).operations)  # type: ignore[misc]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("conv", ["plain", "cagr"])
def test_an_empty_batch_gives_an_empty_image_and_no_gradient(dims: int, conv: str) -> None:
    model = build_model(ModelConfig(conv=conv, dims=dims, widths=(8, 16)), sources=2)
    prediction = model(torch.zeros(0, 2, *[8] * dims))
    assert prediction.shape == (0, 1, *[8] * dims)
    prediction.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("sources", [1, 2, 4])
def test_plain_and_cagr_share_widths_and_initial_weights(dims: int, sources: int) -> None:
    plain = build_model(ModelConfig(conv="plain", dims=dims), sources=sources, seed=5).state_dict()
    cagr = build_model(ModelConfig(dims=dims), sources=sources, seed=5).state_dict()
    assert plain.keys() < cagr.keys()
    assert all(torch.equal(plain[name], cagr[name]) for name in plain)


def test_kernels_are_initialised_as_torch_does() -> None:
    """Uniform in +-1/sqrt(fan in), for the kernel of a CAGR convolution that was built by itself."""
    weight = CagrConv(64, 64, groups=4, config=ModelConfig()).weight
    bound = (64 * 9) ** -0.5
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_the_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_model(TINY[2], sources=2, seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = (build_model(TINY[2], sources=2, seed=seed).state_dict() for seed in (7, 8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.0.conv1.weight"], other["encoder.0.conv1.weight"])


def test_agi_net_starts_as_the_plain_network() -> None:
    """lam = 1, d = 0 and A = 1/2; the GroupNorm behind the convolution removes the half, up to its epsilon."""
    plain, cagr = (build_model(ModelConfig(conv=conv), sources=2).double() for conv in ("plain", "cagr"))
    x = random(2, 2, 16, 16)
    torch.testing.assert_close(cagr(x), plain(x), rtol=0, atol=1e-2 * plain(x).std().item())


def test_first_convolution_has_one_group_per_source() -> None:
    groups = [routing.groups for _, _, routing in cagr_parts(build_model(ModelConfig(), sources=3))]
    assert groups == [3] + 9 * [4]


@pytest.mark.parametrize(("placement", "expected"), [("all", 10), ("encoder", 6), ("decoder", 4)])
def test_placement(placement: str, expected: int) -> None:
    model = build_model(ModelConfig(placement=placement), sources=2)
    assert sum(isinstance(m, CagrConv) for m in model.modules()) == expected


def test_no_bias_in_front_of_a_norm_and_no_batch_norm() -> None:
    names = [name for name, _ in build_model(ModelConfig(), sources=2).named_parameters()]
    assert [name for name in names if name.endswith("bias") and "norm" not in name and "attention" not in name] == [
        "head.bias"
    ]
    assert not list(build_model(ModelConfig(), sources=2).buffers())


def test_offsets_and_scales_learn_from_the_start() -> None:
    model = build_model(TINY[2], sources=2).double()
    model(random(2, 2, 16, 16)).square().mean().backward()
    for _, attention, routing in cagr_parts(model):
        assert routing.scale
        assert routing.offset
        for weight in (attention.weight, routing.scale.weight, routing.offset.weight):
            assert weight.grad is not None
            assert weight.grad.any()


def test_samples_do_not_see_each_other_and_torch_func_gives_their_gradients() -> None:
    model = randomise(build_model(TINY[2], sources=2).double())
    x = random(3, 2, 16, 16)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        prediction: Tensor = functional_call(model, parameters, (sample[None],))
        return prediction.square().mean()

    per_sample = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    model(x).square().mean().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(per_sample[name].mean(0), p.grad)


def test_routing_stays_in_float32_under_autocast() -> None:
    model = build_model(TINY[2], sources=2)
    seen: list[torch.dtype] = []
    for _, attention, routing in cagr_parts(model):
        attention.register_forward_hook(lambda _, __, a: seen.append(a.dtype))
        routing.register_forward_hook(lambda _, __, out: seen.extend(v.dtype for v in out))
    _, (second, _, _), *_ = cagr_parts(model)
    x = random(2, 2, 16, 16).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model(x)
        kernels = second.kernels(torch.split(random(2, 8, 16, 16).bfloat16(), 1))
    assert prediction.dtype == torch.bfloat16
    assert set(seen) == {torch.float32}
    assert kernels.dtype == torch.float32
    prediction.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(prediction.float(), model(x), rtol=0, atol=0.05)


@pytest.mark.parametrize("dims", [2, 3])
def test_training_lowers_the_loss_and_uses_the_routing(dims: int) -> None:
    model = build_model(TINY[dims], sources=2)
    x = random(4, 2, *[8] * dims).float()
    target = x[:, :1] * x[:, 1:]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss = (model(x) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert sum(later < earlier for earlier, later in pairwise(losses)) > 15
    for _, _, routing in cagr_parts(model):
        assert routing.offset
        assert routing.offset.weight.abs().max() > 1e-3


def test_errors() -> None:
    with pytest.raises(ConfigError, match=r"model.groups is 5"):
        build_model(ModelConfig(groups=5), sources=2)
    with pytest.raises(ConfigError, match=r"0 source modalities"):
        build_model(ModelConfig(), sources=0)


def test_the_models_import_torch_alone() -> None:
    """After torch is loaded, importing and running the network loads nothing but the standard library and ourselves."""
    code = """
import sys, torch
class OnlyOurs:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names | {"torch", "agi_core"}:
            raise ImportError(f"the model imports {name}")
sys.meta_path.insert(0, OnlyOurs())
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
build_model(ModelConfig(), sources=2)(torch.zeros(1, 2, 8, 8)).sum().backward()
ours = {name for name in sys.modules if name.startswith("agi_core")}
assert all(name in {"agi_core", "agi_core.errors"} or name.startswith("agi_core.models") for name in ours), ours
"""
    subprocess.run([sys.executable, "-c", code], check=True)
