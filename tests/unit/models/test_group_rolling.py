import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agi_core.models.group_rolling import Routing, roll_kernel, roll_matrix
from agi_core.models.model_config import CHOICES, ModelConfig

interpolations = st.sampled_from(CHOICES["interpolation"])
odd_taps = st.sampled_from([3, 5])
offsets = st.floats(-1.5, 1.5)


def vector(taps: int) -> Tensor:
    return torch.randn(taps, dtype=torch.float64, generator=torch.Generator().manual_seed(taps))


def matrix(offset: float, taps: int, interpolation: str) -> Tensor:
    return roll_matrix(torch.tensor(offset, dtype=torch.float64), taps=taps, interpolation=interpolation)


@settings(deadline=None)
@given(st.integers(-7, 7), odd_taps, interpolations)
def test_whole_offsets_are_torch_roll(offset: int, taps: int, interpolation: str) -> None:
    w = vector(taps)
    torch.testing.assert_close(matrix(offset, taps, interpolation) @ w, torch.roll(w, offset), rtol=0, atol=1e-14)


def test_a_true_shift_loses_what_leaves() -> None:
    w = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    for offset, wanted in (
        (1.0, [0, 1, 2]),
        (-1.0, [2, 6, 0]),
        (0.5, [0.5, 1.5, 4]),
        (-1.5, [4, 3, 0]),
        (0.0, [1, 2, 6]),
    ):
        d = torch.tensor(offset, dtype=torch.float64)
        shifted = roll_matrix(d, taps=3, interpolation="linear", circular=False) @ w
        torch.testing.assert_close(shifted, torch.tensor(wanted, dtype=torch.float64))


def test_half_a_tap_by_linear_interpolation_is_the_mean_of_neighbours() -> None:
    w = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    torch.testing.assert_close(matrix(0.5, 3, "linear") @ w, torch.tensor([3.5, 1.5, 4.0], dtype=torch.float64))
    torch.testing.assert_close(matrix(-0.5, 3, "linear") @ w, torch.tensor([1.5, 4.0, 3.5], dtype=torch.float64))


@settings(deadline=None)
@given(offsets, odd_taps, interpolations)
def test_rolling_keeps_the_sum(offset: float, taps: int, interpolation: str) -> None:
    w = vector(taps)
    torch.testing.assert_close((matrix(offset, taps, interpolation) @ w).sum(), w.sum())


@settings(deadline=None)
@given(offsets, offsets, odd_taps)
def test_fourier_keeps_the_norm_and_adds_offsets_up(first: float, second: float, taps: int) -> None:
    w = vector(taps)
    torch.testing.assert_close((matrix(first, taps, "fourier") @ w).norm(), w.norm())
    twice = matrix(first, taps, "fourier") @ matrix(second, taps, "fourier")
    torch.testing.assert_close(twice, matrix(first + second, taps, "fourier"))


@pytest.mark.parametrize("interpolation", CHOICES["interpolation"])
def test_gradient_with_respect_to_the_offset(interpolation: str) -> None:
    offset = torch.tensor([-0.7, -0.2, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: roll_matrix(d, taps=3, interpolation=interpolation), (offset,))


@pytest.mark.parametrize("interpolation", CHOICES["interpolation"])
def test_the_offset_has_a_slope_at_zero(interpolation: str) -> None:
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    first_tap = (roll_matrix(offset, taps=3, interpolation=interpolation) @ vector(3))[0]
    (slope,) = torch.autograd.grad(first_tap, offset)
    assert slope.abs() > 0.1


@pytest.mark.parametrize("axes", [2, 3])
def test_each_group_is_rolled_by_its_own_whole_offset(axes: int) -> None:
    kernel = torch.arange(2 * 4 * 3**axes, dtype=torch.float64).reshape(2, 4, *[3] * axes)
    offset = torch.tensor([[[1, 0, -1], [0, -1, 1]], [[0, 0, 0], [-1, 1, 0]]])[:, :, :axes]  # (B, G, axes)
    scale = torch.tensor([[1.0, 0.5], [2.0, 1.5]], dtype=torch.float64)
    rolled = roll_kernel(kernel, scale=scale, offset=offset.double(), interpolation="linear")
    for b in range(2):
        for g, channels in enumerate([slice(0, 2), slice(2, 4)]):
            expected = torch.roll(kernel[:, channels], offset[b, g].tolist(), dims=list(range(2, 2 + axes)))
            assert torch.equal(rolled[b, :, channels], scale[b, g] * expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_routing_starts_at_scale_one_and_offset_zero_and_can_leave_them(dims: int) -> None:
    routing = Routing(8, groups=4, config=ModelConfig(dims=dims))
    scale, offset = routing(torch.rand(3, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(scale, torch.ones(3, 4))
    assert torch.equal(offset, torch.zeros(3, 4, dims))
    assert routing.scale
    assert routing.offset
    slopes = torch.autograd.grad(scale.sum() + offset.sum(), [routing.scale.weight, routing.offset.weight])
    assert all(slope.abs().min() > 0 for slope in slopes)


@pytest.mark.parametrize("max_offset", [0.5, 1.5])
def test_routing_is_bounded(max_offset: float) -> None:
    routing = Routing(8, groups=2, config=ModelConfig(max_offset=max_offset)).double()
    generator = torch.Generator().manual_seed(0)
    assert routing.scale
    assert routing.offset
    torch.nn.init.normal_(routing.scale.weight, std=5, generator=generator)
    torch.nn.init.normal_(routing.offset.weight, std=1000, generator=generator)
    scale, offset = routing(torch.rand(100, 8, dtype=torch.float64, generator=generator))
    assert scale.min() > 0
    assert scale.max() < 2
    assert max_offset * 0.99 < offset.abs().max() < max_offset


def test_pooled_routing_of_what_is_constant_in_blocks_sees_their_values() -> None:
    """Pooling by 4 an image made of 4 x 4 blocks gives the routing function the small image itself."""
    full, pooled = Routing(4, groups=2, config=ModelConfig()), Routing(4, groups=2, config=ModelConfig(routing_pool=4))
    pooled.load_state_dict(full.state_dict())
    small = torch.rand(1, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    blocks = small.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    attention = torch.tensor([0.1, 0.5, 0.7, 0.9])
    torch.testing.assert_close(pooled.summarise(blocks, attention[None]), full.summarise(small, attention[None]))
