"""Group alignment against motions that are known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agi_core.models.agi_net import build_model
from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.models.alignment.sampling import lattice, sample
from agi_core.models.model_config import ModelConfig
from agi_core.privacy.noise import NoiseSource
from agi_core.privacy.patient_sgd import Mechanism, private_step
from tests.support.smooth_images import texture

AFFINE = ModelConfig(conv="plain", widths=(4, 8), alignment="affine")


def other_contrast(image: Tensor) -> Tensor:
    """Dark where the image is bright, and not by the same law."""
    return 0.9 - 0.8 * image**1.5


def moved_by(image: Tensor, offset: Tensor) -> Tensor:
    """What, read at p + offset(p) voxels, gives the image: exact for a constant offset, up to interpolation."""
    space = image.shape[2:]
    at = lattice(space, like=image)
    back = -2 * offset.reshape(-1, *[1] * len(space)) / image.new_tensor(space).reshape(-1, *[1] * len(space))
    return sample(image, (at + back)[None])


def error_vox(offsets: Tensor, truth: Tensor, margin: int = 8) -> float:
    """Mean distance in voxels away from the border; offsets (N, *space), truth (N, *space) or (N, 1, ...)."""
    inner = tuple(slice(margin, -margin) for _ in offsets.shape[1:])
    return float((offsets - truth)[:, *inner].norm(dim=0).mean())


@pytest.mark.parametrize("kind", ["global", "affine", "dense"])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (3.0, -7.0), (16.0, 10.5)])
def test_a_shift_of_another_contrast_is_found(kind: str, offset: tuple[float, float]) -> None:
    image = texture(128, 120, detail=10)
    truth = torch.tensor(offset, dtype=torch.float64)
    sources = torch.cat([other_contrast(moved_by(image, truth)), image], dim=1)
    alignment = GroupAlignment(replace(AFFINE, alignment=kind), reference=1)
    offsets = alignment.offsets(sources)[0]
    assert not offsets[1].any()
    assert error_vox(offsets[0], truth.reshape(2, 1, 1), margin=24) < 0.2
    inner = (slice(None), slice(24, -24), slice(24, -24))
    torch.testing.assert_close(
        alignment(sources)[0][inner][0], other_contrast(image)[0, 0][inner[1:]], rtol=0, atol=0.05
    )


@pytest.mark.parametrize("size", [96, 104, 128])
def test_a_large_shift_is_found_in_a_crop_and_in_a_head_box_as_in_a_slice(size: int) -> None:
    image, truth = texture(size, size, detail=10), torch.tensor((0.0, 16.0), dtype=torch.float64)
    offsets = GroupAlignment(AFFINE, reference=1).offsets(torch.cat([moved_by(image, truth), image], dim=1))[0]
    assert error_vox(offsets[0], truth.reshape(2, 1, 1), margin=24) < 0.2


def test_a_turned_and_scaled_image_is_found() -> None:
    image = texture(128, 128, detail=10)
    at = lattice((128, 128), like=image)
    angle = torch.tensor(0.08, dtype=torch.float64)  # 4.6 degrees
    turn = 1.05 * torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    moving = other_contrast(sample(image, torch.einsum("ij,jyx->iyx", turn.inverse(), at)[None]))
    truth = (torch.einsum("ij,jyx->iyx", turn, at) - at) * 64
    offsets = {
        kind: GroupAlignment(replace(AFFINE, alignment=kind), reference=0).offsets(torch.cat([image, moving], 1))[0, 1]
        for kind in ("global", "affine", "dense")
    }
    assert error_vox(offsets["affine"], truth, margin=16) < 0.2
    assert error_vox(offsets["dense"], truth, margin=16) < 0.3
    assert error_vox(offsets["global"], truth, margin=16) > 2


def test_a_bent_image_needs_the_dense_field() -> None:
    image = texture(128, 128, detail=8)
    at = lattice((128, 128), like=image)
    truth = torch.stack([2.5 * torch.sin(5 * at[1]), 2.5 * torch.cos(4 * at[0])])
    back = at[None]
    for _ in range(10):  # the image that, read at p + truth(p), is the reference: by fixed point
        back = at[None] - sample(truth[None], back) / 64
    moving = other_contrast(sample(image, back))
    sources = torch.cat([image, moving], 1)
    errors = {
        kind: error_vox(GroupAlignment(replace(AFFINE, alignment=kind), reference=0).offsets(sources)[0, 1], truth, 16)
        for kind in ("affine", "dense")
    }
    assert errors["dense"] < 0.25 * errors["affine"]


@pytest.mark.parametrize("kind", ["global", "affine", "dense"])
def test_volumes_and_three_moved_sources(kind: str) -> None:
    space = (32, 36, 40)
    image = texture(*space, detail=8)
    truths = [torch.tensor(t, dtype=torch.float64) for t in ([1.5, -3.0, 2.0], [0.0, 0.0, 0.0], [-2.0, 4.0, 0.5])]
    moved = [other_contrast(moved_by(image, truth)) for truth in truths]
    sources = torch.cat([*moved[:2], image, moved[2]], dim=1)
    offsets = GroupAlignment(replace(AFFINE, dims=3, alignment=kind), reference=2).offsets(sources)[0]
    assert offsets.shape == (4, 3, *space)
    assert not offsets[2].any()
    for number, truth in zip((0, 1, 3), truths, strict=True):
        assert error_vox(offsets[number], truth.reshape(3, 1, 1, 1)) < 0.4


def test_neighbouring_slices_show_motion_through_the_plane() -> None:
    """Slices 0.4 of their distance further up, and tilted."""
    fine = texture(54, 96, 96, detail=18)
    at = lattice((54, 96, 96), like=fine)
    through = 3 * (0.4 + 0.2 * at[2]) / 27
    lifted = sample(fine, torch.stack([at[0] - through, at[1], at[2]])[None])
    volume, moving = fine[:, :, 1::3], other_contrast(lifted)[:, :, 1::3]
    slabs = torch.stack([volume[0, 0, 8:11], moving[0, 0, 8:11]])[None]
    alignment = GroupAlignment(replace(AFFINE, neighbours=1), reference=0)
    offsets = alignment.offsets(slabs)[0]
    assert offsets.shape == (2, 3, 96, 96)
    truth = torch.stack([0.4 + 0.2 * at[2, 0], torch.zeros(96, 96), torch.zeros(96, 96)])
    assert error_vox(offsets[1], truth) < 0.15
    aligned = alignment(slabs)
    assert aligned.shape == (1, 2, 96, 96)
    torch.testing.assert_close(aligned[0, 0], volume[0, 0, 9])
    inner = (slice(8, -8), slice(8, -8))
    error, before = (
        (x - other_contrast(volume[0, 0, 9]))[inner].abs().mean() for x in (aligned[0, 1], moving[0, 0, 9])
    )
    assert error < 0.5 * before


def test_an_end_slice_is_moved_in_its_plane_alone() -> None:
    """Its neighbours are mirrored, so that nothing tells of a motion through the plane."""
    image, beyond = texture(96, 96, detail=9)[0, 0], texture(96, 96, detail=9, seed=1)[0, 0]
    fixed = torch.stack([beyond, image, beyond])
    moving = other_contrast(moved_by(fixed[None], torch.tensor([3.0, -2.0], dtype=torch.float64)))[0]
    offsets = GroupAlignment(replace(AFFINE, neighbours=1), reference=0).offsets(torch.stack([fixed, moving])[None])[
        0, 1
    ]
    assert offsets[0].abs().max() < 1e-6
    assert error_vox(offsets[1:], torch.tensor([3.0, -2.0]).reshape(2, 1, 1)) < 0.2


@pytest.mark.parametrize("kind", ["affine", "dense"])
def test_sources_that_lie_on_the_reference_are_left_as_they_are(kind: str) -> None:
    """Bit for bit, although noise makes an estimate differ from nothing."""
    image = texture(64, 56)
    noise = 0.02 * torch.randn(2, 1, 64, 56, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sources = torch.cat([other_contrast(image) + noise[:1], image + noise[1:]], dim=1)
    align = GroupAlignment(replace(AFFINE, alignment=kind), reference=1)
    assert float(align.offsets(sources).abs().max()) == 0.0
    torch.testing.assert_close(align(sources), sources, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dims", "neighbours"), [(2, 0), (2, 1), (3, 0)])
@pytest.mark.parametrize("conv", ["plain", "cagr"])
def test_the_network_takes_an_empty_batch_and_trains(dims: int, neighbours: int, conv: str) -> None:
    config = ModelConfig(conv=conv, dims=dims, widths=(4, 8), alignment="dense", neighbours=neighbours)
    model = build_model(config, sources=2, reference=0)
    slices = [2 * neighbours + 1] if neighbours else []
    empty = model(torch.zeros(0, 2, *slices, *[16] * dims))
    assert empty.shape == (0, 1, *[16] * dims)
    empty.sum().backward()
    x = torch.rand(2, 2, *slices, *[16] * dims, generator=torch.Generator().manual_seed(0))
    model(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_alignment_adds_no_weight_and_no_buffer() -> None:
    plain, aligned = (build_model(replace(AFFINE, alignment=kind), sources=2, seed=3) for kind in ("none", "affine"))
    assert plain.state_dict().keys() == aligned.state_dict().keys()
    assert all(torch.equal(plain.state_dict()[name], weight) for name, weight in aligned.state_dict().items())
    assert not list(aligned.buffers())


def test_samples_do_not_see_each_other() -> None:
    sources = torch.cat([torch.cat([texture(48, 48, seed=s), texture(48, 48, seed=s + 5)], 1) for s in range(3)])
    alignment = GroupAlignment(replace(AFFINE, alignment="dense"), reference=0)
    one_by_one = torch.cat([alignment(sample[None]) for sample in sources])
    torch.testing.assert_close(alignment(sources), one_by_one, rtol=0, atol=1e-9)


def test_the_gradient_is_that_of_the_sampling() -> None:
    """The offsets are taken as given: an image that is not moved passes its gradient through."""
    image = texture(32, 32)
    sources = torch.cat([image, image], 1).requires_grad_()
    alignment = GroupAlignment(AFFINE, reference=0)
    assert alignment.offsets(sources).abs().max() < 1e-9
    upstream = torch.rand(1, 2, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(alignment(sources), sources, upstream)
    torch.testing.assert_close(gradient, upstream, rtol=0, atol=1e-6)


def test_what_was_not_imaged_is_what_it_is_elsewhere_where_the_reference_is_as_bright() -> None:
    alignment = GroupAlignment(AFFINE, reference=1)
    image = texture(96, 96)
    sources = torch.cat([other_contrast(moved_by(image, torch.tensor([6.0, 0.0], dtype=torch.float64))), image], 1)
    assert error_vox(alignment.offsets(sources)[0, 0], torch.tensor([6.0, 0.0]).reshape(2, 1, 1)) < 0.2
    aligned = alignment(sources)[0, 0, -5:, 8:-8]
    torch.testing.assert_close(aligned, other_contrast(image)[0, 0, -5:, 8:-8], rtol=0, atol=0.04)
    cut = torch.cat([other_contrast(image), image], 1)
    cut[:, 0, :, :9] = 0  # resampled from a smaller field of view
    for columns in (slice(0, 8), slice(10, None)):  # between them it is interpolated
        rows = (slice(8, -8), columns)
        torch.testing.assert_close(alignment(cut)[0, 0, *rows], other_contrast(image)[0, 0, *rows], rtol=0, atol=0.06)


def test_blank_images_and_stripped_background_are_left_alone() -> None:
    alignment = GroupAlignment(AFFINE, reference=1)
    blank = torch.zeros(1, 2, 32, 32)
    assert not alignment.offsets(blank).any()
    assert not alignment(blank).any()
    brain = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    brain[..., 16:48, 16:48] = texture(32, 32)
    aligned = alignment(torch.cat([other_contrast(brain) * (brain > 0), brain], 1))
    assert not aligned[0, 0][brain[0, 0] == 0].any()


def test_estimates_stay_in_float32_under_autocast() -> None:
    image = texture(48, 48).float()
    sources = torch.cat([moved_by(image, torch.tensor([2.0, 1.0])), image], 1)
    alignment = GroupAlignment(AFFINE, reference=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        offsets, aligned = alignment.offsets(sources), alignment(sources)
    torch.testing.assert_close(offsets, alignment.offsets(sources), rtol=0, atol=0)
    assert aligned.dtype == torch.float32


@pytest.mark.parametrize("space", [(17, 23), (64, 5), (1, 1)])
def test_any_size_works(space: tuple[int, int]) -> None:
    sources = torch.rand(2, 3, *space, generator=torch.Generator().manual_seed(0))
    aligned = GroupAlignment(replace(AFFINE, alignment="dense"), reference=2)(sources)
    assert aligned.shape == sources.shape
    assert aligned.isfinite().all()
    assert torch.equal(aligned[:, 2], sources[:, 2])


@pytest.mark.parametrize("kind", ["affine", "dense"])
def test_a_private_step_trains_the_aligned_network(kind: str) -> None:
    model = build_model(replace(AFFINE, alignment=kind), sources=2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    x = torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    private_step(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        lambda subject: model(x).square().mean(),
        count=2,
        mechanism=Mechanism(1.0, 1.0, 1.0, 2),
        noise=NoiseSource(bytes(32)),
    )
    assert all((old != new).float().mean() > 0.9 for old, new in zip(before, model.parameters(), strict=True))
