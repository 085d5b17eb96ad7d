import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig, spatial_multiple
from agi_core.models.resunet import GroupNorm, average_pool_3d, average_pool_by_planes, to_channels_last


@pytest.mark.parametrize(("dims", "space"), [(2, (24, 40)), (3, (8, 12, 4))])
@pytest.mark.parametrize("conv", ["plain", "cagr"])
def test_the_output_is_one_image_of_the_same_size(dims: int, space: tuple[int, ...], conv: str) -> None:
    config = ModelConfig(conv=conv, dims=dims, widths=(4, 8, 12))
    assert all(size % spatial_multiple(config) == 0 for size in space)
    assert build_model(config, sources=3)(torch.rand(2, 3, *space)).shape == (2, 1, *space)


def test_one_scale_is_a_residual_block_and_a_head() -> None:
    model = build_model(ModelConfig(conv="plain", widths=(8,)), sources=2)
    x = torch.rand(1, 2, 5, 7)
    torch.testing.assert_close(model(x), model.head(model.encoder[0](x)))


def test_the_coarsest_scale_reaches_the_output() -> None:
    """A change of one pixel reaches further than the finest scale's four convolutions could carry it."""
    model = build_model(ModelConfig(conv="plain"), sources=1)
    x = torch.zeros(1, 1, 64, 64)
    x.requires_grad_()
    model(x)[0, 0, 32, 32].backward()
    assert x.grad is not None
    assert x.grad[0, 0, 32, 32 + 5 :].any()


def test_a_gpus_autocast_does_not_widen_what_is_normalised() -> None:
    """On tensors of a GPU that hold no numbers. `torch.autocast` itself is off where there is no GPU."""
    with FakeTensorMode(), torch.no_grad():
        norm, x = GroupNorm(8, 16, device="cuda"), torch.empty(2, 16, 8, 8, device="cuda", dtype=torch.bfloat16)
        torch.set_autocast_enabled("cuda", True)
        try:
            assert norm(x).dtype == torch.bfloat16
        finally:
            torch.set_autocast_enabled("cuda", False)
    networks = [build_model(ModelConfig(conv=conv, stem=4), sources=2) for conv in ("plain", "cagr")]
    norms = [module for network in networks for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert {type(norm) for norm in norms} == {GroupNorm}


def test_a_norm_in_bfloat16_is_the_one_in_float32_but_for_rounding() -> None:
    norm, oracle = GroupNorm(8, 16), nn.GroupNorm(8, 16)
    for parameter, same in zip(norm.parameters(), oracle.parameters(), strict=True):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
        same.data.copy_(parameter.data)
    x = torch.rand((2, 16, 24, 24), generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(norm(x.float()), oracle(x.float()))
    with torch.autocast("cpu", torch.bfloat16):
        normalised = norm(x)
    torch.testing.assert_close(normalised.float(), oracle(x.float()), rtol=2**-7, atol=2**-6)
    normalised.float().square().mean().backward()
    assert {parameter.grad.dtype for parameter in norm.parameters() if parameter.grad is not None} == {torch.float32}


@pytest.mark.parametrize("space", [(4, 6), (3, 4, 5)])
def test_channels_last_changes_the_layout_only(space: tuple[int, ...]) -> None:
    x = torch.rand(2, 3, *space)
    y = to_channels_last(x)
    assert torch.equal(x, y)
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    assert y.is_contiguous(memory_format=formats[len(space)])


@pytest.mark.parametrize("how", [{}, {"ceil_mode": True, "count_include_pad": False}])
def test_pooling_by_planes_is_pooling_in_3d(how: dict[str, bool]) -> None:
    x = torch.rand((2, 3, 7, 8, 9), dtype=torch.float64, requires_grad=True)
    outputs = [pool(x, 2, **how) for pool in (average_pool_by_planes, average_pool_3d)]
    torch.testing.assert_close(*outputs)
    gradients = [torch.autograd.grad(output.square().sum(), x)[0] for output in outputs]
    torch.testing.assert_close(*gradients)


def test_adapters_leave_a_new_network_as_it_is_and_are_a_term_of_their_own() -> None:
    with_adapters = build_model(ModelConfig(conv="plain", widths=(4, 8), adapters=2), sources=2)
    without = build_model(ModelConfig(conv="plain", widths=(4, 8)), sources=2)
    own = {name: tensor for name, tensor in with_adapters.state_dict().items() if ".adapter." not in name}
    without.load_state_dict(own)
    x = torch.rand(2, 2, 8, 8)
    torch.testing.assert_close(with_adapters(x), without(x))
    block = with_adapters.encoder[0]
    down, _, up = block.adapter
    torch.nn.init.normal_(up.weight)
    w, b, v = (parameter.detach()[..., 0, 0] if parameter.dim() == 4 else parameter.detach()
               for parameter in (down.weight, down.bias, up.weight))  # fmt: skip
    hidden = torch.einsum("rc,bchw->brhw", w, x) + b[:, None, None]
    term = torch.einsum("or,brhw->bohw", v, torch.where(hidden > 0, hidden, 0.1 * hidden))
    y = without.encoder[0]
    plain = y.norm2(y.conv2(torch.nn.functional.leaky_relu(y.norm1(y.conv1(x)), 0.1))) + y.skip(x)
    torch.testing.assert_close(block(x), torch.nn.functional.leaky_relu(plain + term, 0.1))
