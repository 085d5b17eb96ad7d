"""The private step against its definition, a float64 reference and Opacus, and what it must refuse."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from agi_core.errors import PrivacyError
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.privacy.noise import NoiseSource, poisson_lot
from agi_core.privacy.patient_sgd import Mechanism, private_step

Seeded = Callable[[int], NoiseSource]


class Net(nn.Module):
    """A small network with a branch that no loss uses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.GroupNorm(1, 3)
        self.head = nn.Conv2d(3, 1, 1)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(self.conv(x)).relu())
        return y


def make_net(dtype: torch.dtype = torch.float32) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Net().to(dtype)


def make_subjects(sizes: list[int], *, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    """One tensor (s, 1, 6, 6) per subject."""
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(size, 1, 6, 6, generator=generator) for size in sizes]


def loss_of(net: nn.Module, subjects: list[Tensor]) -> Callable[[int], Tensor]:
    def loss(subject: int) -> Tensor:
        x = subjects[subject].to(next(net.parameters()).dtype)
        value: Tensor = (net(x) - 3 * x.roll(1, -1)).square().mean()
        return value

    return loss


def flat(values: list[Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) for value in values]).double()


def gradient(net: nn.Module) -> Tensor:
    """The last private gradient, all parameters as one vector, float64."""
    return flat([parameter.grad for parameter in net.parameters() if parameter.grad is not None])


def private_gradient(
    net: nn.Module,
    subjects: list[Tensor],
    noise: NoiseSource,
    *,
    sigma: float = 0.0,
    clip: float = 1.0,
    rate: float = 1.0,
) -> Tensor:
    """The gradient of one private step over these subjects, times q N: clipped sum and noise."""
    mechanism = Mechanism(sigma, clip, rate, max(len(subjects), 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    private_step(net, optimizer, loss_of(net, subjects), count=len(subjects), mechanism=mechanism, noise=noise)
    return gradient(net) * rate * max(len(subjects), 1)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slices=st.integers(1, 24),
    seed=st.integers(0, 2**31),
    scale=st.floats(1e-3, 1e6),
    clip=st.floats(1e-4, 1e4),
)
def test_a_subject_adds_at_most_the_clip_norm(slices: int, seed: int, scale: float, clip: float) -> None:
    """However many slices it has and whatever is in them; and the bound is reached when the gradient is larger."""
    net, subject, noise = make_net(), make_subjects([slices], seed=seed, scale=scale), NoiseSource(bytes(32))
    norm = float(private_gradient(net, subject, noise, clip=clip).norm())
    assert norm <= clip * (1 + 1e-5)
    unclipped = float(private_gradient(net, subject, noise, clip=1e30).norm())
    assert norm == pytest.approx(min(clip, unclipped), rel=1e-4, abs=2e-6)


@settings(max_examples=50, deadline=None)
@given(before=st.integers(1, 8), added=st.integers(1, 60), seed=st.integers(0, 2**31))
def test_more_slices_of_a_subject_give_it_no_more_weight(before: int, added: int, seed: int) -> None:
    """In a lot with others: the subject's term stays within C with 1 or 60 slices more, and the others' do not move."""
    net, noise = make_net(), NoiseSource(bytes(32))
    others = make_subjects([3, 2], seed=seed + 1)
    subject, more = make_subjects([before, added], seed=seed, scale=5.0)
    without = private_gradient(net, others, noise)
    for its_slices in (subject, torch.cat([subject, more])):
        term = private_gradient(net, [*others, its_slices], noise) - without
        assert float(term.norm()) <= 1 + 1e-5
        alone = private_gradient(net, [its_slices], noise)
        torch.testing.assert_close(term, alone, rtol=0, atol=1e-6)
    repeated = private_gradient(net, [*others, subject.repeat(4, 1, 1, 1)], noise, clip=1e6)
    torch.testing.assert_close(
        repeated, private_gradient(net, [*others, subject], noise, clip=1e6), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_steps_equal_a_reference(seeded: Seeded, dtype: torch.dtype, tolerance: float) -> None:
    """Five steps of momentum SGD with weight decay, written out in float64 from the formula."""
    net, subjects = make_net(dtype), make_subjects([4, 1, 7, 2, 3, 5], scale=2.0)
    mechanism = Mechanism(noise_multiplier=1.3, max_grad_norm=0.7, lot_rate=0.4, subjects=6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    noise = seeded(1)
    for _ in range(5):
        private_step(net, optimizer, loss_of(net, subjects), count=6, mechanism=mechanism, noise=noise)

    reference, noise = make_net(torch.float64), seeded(1)
    velocity = torch.zeros(sum(p.numel() for p in reference.parameters()), dtype=torch.float64)
    sizes = []
    for _ in range(5):
        lot = [i for i, u in enumerate(noise.uniform(6)) if u < 0.4]
        sizes.append(len(lot))
        total = torch.zeros_like(velocity)
        for subject in lot:
            reference.zero_grad()
            loss_of(reference, subjects)(subject).backward()  # type: ignore[no-untyped-call]
            g = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in reference.parameters()])
            total += g * min(1.0, 0.7 / (float(g.norm()) + 1e-6))
        z = torch.cat([torch.from_numpy(noise.normal(p.numel())) for p in reference.parameters()])
        weights = flat([p.data for p in reference.parameters()])
        velocity = 0.9 * velocity + (total + 1.3 * 0.7 * z) / (0.4 * 6) + 0.01 * weights
        nn.utils.vector_to_parameters(weights - 0.05 * velocity, reference.parameters())
    assert len(set(sizes)) > 1  # the denominator did not follow the lots
    ours, theirs = (flat([p.data for p in model.parameters()]) for model in (net, reference))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_it_equals_opacus(seeded: Seeded) -> None:
    """The clipped sum of DPOptimizer without noise, fed one subject at a time."""
    net, subjects = make_net(), make_subjects([4, 1, 7], scale=3.0)
    ours = private_gradient(net, subjects, seeded(2), clip=0.9) / 3
    used = [parameter for name, parameter in net.named_parameters() if not name.startswith("unused")]
    theirs = DPOptimizer(torch.optim.SGD(used, lr=0.0), noise_multiplier=0.0, max_grad_norm=0.9, expected_batch_size=3)
    for subject in range(3):
        theirs.zero_grad()
        loss_of(net, subjects)(subject).backward()  # type: ignore[no-untyped-call]
        for parameter in used:
            assert parameter.grad is not None
            parameter.grad_sample = parameter.grad[None]  # type: ignore[attr-defined]
        theirs.signal_skip_step(subject < 2)
        theirs.step()
    torch.testing.assert_close(ours[:-6], flat([p.grad for p in used if p.grad is not None]), rtol=0, atol=1e-6)


def test_without_noise_and_clip_it_is_plain_training_on_subject_means(seeded: Seeded) -> None:
    private, plain, subjects = make_net(), make_net(), make_subjects([4, 1, 7])
    ours = torch.optim.Adam(private.parameters(), lr=0.01)
    theirs = torch.optim.Adam(plain.parameters(), lr=0.01)
    for _ in range(5):
        private_step(
            private, ours, loss_of(private, subjects), count=3, mechanism=Mechanism(0.0, 1e9, 1.0, 3), noise=seeded(1)
        )
        theirs.zero_grad()
        torch.stack([loss_of(plain, subjects)(i) for i in range(3)]).mean().backward()  # type: ignore[no-untyped-call]
        theirs.step()
    for own, its in zip(private.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, its, rtol=0, atol=1e-5)


def expected_noise(net: nn.Module, noise: NoiseSource, *, count: int) -> Tensor:
    noise.uniform(count)
    return torch.cat([torch.from_numpy(noise.normal(p.numel())) for p in net.parameters()])


def test_an_empty_lot_is_a_step_of_noise_once(seeded: Seeded) -> None:
    net, subjects, noise = make_net(), make_subjects([4, 1, 7]), seeded(3)
    total = private_gradient(net, subjects, noise, sigma=2.0, clip=0.5, rate=1e-9)
    own_copy = seeded(3)
    expected = expected_noise(net, own_copy, count=3)
    torch.testing.assert_close(total, 2.0 * 0.5 * expected, rtol=1e-5, atol=1e-6)
    assert noise.read(16) == own_copy.read(16)  # nothing more was drawn
    assert (gradient(net)[-6:] != 0).all()  # the unused branch is noised like the rest


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("position", [0, 2])
def test_a_subject_without_a_finite_gradient_adds_nothing(seeded: Seeded, bad: float, position: int) -> None:
    net, good = make_net(), make_subjects([4, 1], scale=2.0)
    broken = good[0].clone()
    broken[0, 0, 0, 0] = bad
    subjects = [*good[:position], broken, *good[position:]]
    total = private_gradient(net, subjects, seeded(4), sigma=1.5)
    expected = private_gradient(net, good, seeded(5)) + 1.5 * expected_noise(net, seeded(4), count=3)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-5)
    assert all(parameter.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), MemoryError(), OSError("patient_0042")])
@pytest.mark.parametrize("position", [0, 2])
def test_a_subject_whose_loss_fails_adds_nothing(seeded: Seeded, error: Exception, position: int) -> None:
    """A step that failed would tell that this subject is in the lot."""
    net, good = make_net(), make_subjects([4, 1], scale=2.0)
    subjects = [*good[:position], good[0], *good[position:]]
    loss = loss_of(net, subjects)

    def failing(subject: int) -> Tensor:
        if subject == position:
            raise error
        return loss(subject)

    optimizer, mechanism = torch.optim.SGD(net.parameters(), lr=0.0), Mechanism(1.5, 1.0, 1.0, 3)
    expected = private_gradient(net, good, seeded(5)) + 1.5 * expected_noise(net, seeded(4), count=3)
    private_step(net, optimizer, failing, count=3, mechanism=mechanism, noise=seeded(4))
    torch.testing.assert_close(gradient(net) * 3, expected, rtol=0, atol=1e-5)


def test_a_lot_of_nothing_but_broken_subjects_is_noise_once(seeded: Seeded) -> None:
    net, broken = make_net(), [torch.full((2, 1, 6, 6), float("nan"))]
    total = private_gradient(net, broken, seeded(6), sigma=1.5)
    torch.testing.assert_close(total, 1.5 * expected_noise(net, seeded(6), count=1), rtol=1e-5, atol=1e-6)


def test_gradients_too_large_for_float32_are_clipped_exactly() -> None:
    """Components of 1e38: the norm leaves float32, the clipped gradient must not leave C."""
    layer = nn.Linear(20_000, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    x = torch.full((1, 20_000), 1e38)
    private_step(
        layer,
        optimizer,
        lambda subject: (layer.weight * x).sum(),
        count=1,
        mechanism=Mechanism(0.0, 1e-3, 1.0, 1),
        noise=NoiseSource(bytes(32)),
    )
    assert float(gradient(layer).norm()) == pytest.approx(1e-3, rel=1e-5)


def test_agi_net_is_trained_with_all_its_parameters(seeded: Seeded) -> None:
    """Every parameter of the real model is clipped, noised and updated."""
    net = build_model(ModelConfig(widths=(8, 16)), sources=2)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((3, 2, 16, 16), generator=generator)
    private_step(
        net,
        torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
        lambda subject: net(x).square().mean(),
        count=2,
        mechanism=Mechanism(1.0, 1.0, 1.0, 2),
        noise=seeded(7),
    )
    for old, new in zip(before, net.parameters(), strict=True):
        assert (old != new).float().mean() > 0.99


class ScaledBatchNorm(nn.SyncBatchNorm):
    """A user's subclass."""


class RunningMean(nn.Module):
    """A model that remembers its data."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("mean", torch.zeros(1), persistent=False)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.BatchNorm2d(3), "BatchNorm2d.*use GroupNorm"),
        (nn.BatchNorm2d(3, track_running_stats=False), "BatchNorm2d.*use GroupNorm"),
        (ScaledBatchNorm(3), "ScaledBatchNorm.*use GroupNorm"),
        (nn.InstanceNorm2d(3, track_running_stats=True), "keeps running_mean, running_var.*running statistics"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), "keeps _u, _v.*running statistics"),
        (RunningMean(), "keeps mean"),
    ],
)
def test_what_data_changes_without_noise_is_refused(seeded: Seeded, module: nn.Module, reason: str) -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), module)
    with pytest.raises(PrivacyError, match=reason):
        private_gradient(net, make_subjects([1]), seeded(8))


@pytest.mark.parametrize("change", ["fewer", "foreign", "frozen", "nothing"])
def test_the_optimiser_holds_exactly_the_trainable_parameters(seeded: Seeded, change: str) -> None:
    net = make_net()
    held = list(net.parameters())
    if change == "fewer":
        held.pop()
    elif change == "foreign":
        held.append(nn.Parameter(torch.zeros(1)))
    elif change == "frozen":
        held[0].requires_grad_(False)
    else:
        net.requires_grad_(False)
    with pytest.raises(PrivacyError, match="all of these, and nothing else"):
        private_step(
            net,
            torch.optim.SGD(held, lr=0.1),
            loss_of(net, make_subjects([1])),
            count=1,
            mechanism=Mechanism(1.0, 1.0, 1.0, 1),
            noise=seeded(9),
        )


def test_frozen_parameters_stay_as_they_are(seeded: Seeded) -> None:
    net = make_net()
    net.conv.requires_grad_(False)
    before = net.conv.weight.clone()
    small_part = [parameter for parameter in net.parameters() if parameter.requires_grad]
    private_step(
        net,
        torch.optim.SGD(small_part, lr=0.1),
        loss_of(net, make_subjects([2, 3])),
        count=2,
        mechanism=Mechanism(1.0, 1.0, 1.0, 2),
        noise=seeded(10),
    )
    assert torch.equal(net.conv.weight, before)
    assert net.conv.weight.grad is None


@pytest.mark.parametrize(
    "values",
    [
        (-1.0, 1, 0.5, 3),
        (float("nan"), 1, 0.5, 3),
        (1, 0, 0.5, 3),
        (1, float("inf"), 0.5, 3),
        (1, 1, 0, 3),
        (1, 1, 1.5, 3),
        (1, 1, float("nan"), 3),
        (1, 1, 0.5, 0),
    ],
)
def test_constants_out_of_range_are_refused(values: tuple[float, float, float, int]) -> None:
    with pytest.raises(PrivacyError, match="must"):
        Mechanism(*values)


def test_the_same_seed_repeats_a_step_and_lots_decide_who_is_asked(seeded: Seeded) -> None:
    net, asked = make_net(), []
    loss = loss_of(net, make_subjects([1] * 8))

    def noted(subject: int) -> Tensor:
        asked.append(subject)
        return loss(subject)

    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    private_step(net, optimizer, noted, count=8, mechanism=Mechanism(1.0, 1.0, 0.5, 8), noise=seeded(11))
    assert asked == poisson_lot(8, rate=0.5, noise=seeded(11))
    assert 0 < len(asked) < 8
