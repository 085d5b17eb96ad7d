"""The weights of a blend, against figures worked out by hand and against experts whose errors are known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agi_core.blend import Blend, Expert, WithGaps, blend_weights, pose_of
from agi_core.models.model_config import ModelConfig
from agi_core.pair_alignment import pair_alignment
from tests.support.predictors import Made
from tests.support.smooth_images import texture


@pytest.mark.parametrize(
    ("errors", "apart", "first"),
    [
        ((4.0, 4.0), 2.0, 0.5),  # equals
        ((4.0, 5.0), 2.0, 0.75),  # 1/2 + (5 - 4) / (2 * 2)
        ((4.0, 8.0), 1.0, 1.0),  # 1/2 + 4 / 2 = 2.5, cut
        ((8.0, 4.0), 1.0, 0.0),
        ((4.0, 4.0), 0.0, 0.5),  # one and the same
        ((3.0, 4.0), 0.0, 1.0),
    ],
)
def test_two_experts(errors: tuple[float, float], apart: float, first: float) -> None:
    assert blend_weights(errors, {(0, 1): apart}) == pytest.approx([first, 1 - first])


def test_one_expert_has_all_the_weight() -> None:
    assert blend_weights([0.3], {}) == [1.0]


def test_where_nobody_has_measured_errors_are_independent() -> None:
    weights = blend_weights([1.0, 2.0, 4.0], {})
    assert weights == pytest.approx([4 / 7, 2 / 7, 1 / 7])  # inverse variances


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_no_expert_and_no_equal_blend_is_better_on_the_errors_that_were_measured(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    errors = rng.normal(size=(count, 40)) @ np.diag(rng.uniform(0.1, 1, 40)) + rng.normal(size=40) * rng.uniform(0, 2)
    apart = {(i, j): float(((errors[i] - errors[j]) ** 2).mean()) for i in range(count) for j in range(i + 1, count)}
    weights = blend_weights((errors**2).mean(axis=1), apart)
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1)

    def error_of(some: NDArray[np.float64]) -> float:
        return float(((some @ errors) ** 2).mean())

    best = error_of(np.array(weights))
    others = [*np.eye(count), np.full(count, 1 / count), *rng.dirichlet(np.ones(count), size=50)]
    assert all(best <= error_of(other) + 1e-6 for other in others)


def test_each_expert_sees_its_own_sources() -> None:
    sources = torch.stack([torch.full((2, 8, 8), value) for value in (0.1, 0.2, 0.4)], dim=1)
    mean = Made(lambda sources: sources.mean(dim=1, keepdim=True))
    blend = Blend((Expert(mean, (0, 2), 0.25, 0), Expert(mean, (1,), 0.75, 1)), 0, None)
    assert torch.allclose(blend.predict(sources), torch.full((2, 1, 8, 8), 0.25 * 0.25 + 0.75 * 0.2))


def test_an_expert_leaves_the_range_no_farther_than_its_measured_errors_did() -> None:
    """They are of predictions in [0, 1], as an expert's own always are: (0 + 0.3) / 2, and not (-0.4 + 0.3) / 2."""
    low, right = (Made(lambda sources, value=value: torch.full_like(sources, value)) for value in (-0.4, 0.3))
    blend = Blend((Expert(low, (0,), 0.5, 0), Expert(right, (0,), 0.5, 0)), 0, None)
    assert torch.allclose(blend.predict(torch.zeros(1, 1, 8, 8)), torch.tensor(0.15))


@pytest.mark.parametrize("volumetric", [False, True])
def test_images_in_two_poses_come_together_in_that_of_one_source(volumetric: bool) -> None:
    """The head has moved between the sources, and each expert makes the same image where its own source lies."""
    space = (24, 96, 96) if volumetric else (96, 88)
    image = texture(*space, detail=10).float()
    slices = image[0].transpose(0, 1) if volumetric else image  # (D, 1, H, W) or one slice
    moved = torch.roll(slices, (4, -5), dims=(2, 3))
    sources = torch.cat([moved, slices], dim=1)
    copy = Made(lambda its: its, volumetric=volumetric)
    experts = (Expert(copy, (0,), 0.5, 0), Expert(copy, (1,), 0.5, 1))
    alignment = pair_alignment(ModelConfig(alignment="affine", dims=3 if volumetric else 2))
    inner = (..., slice(12, -12), slice(12, -12))

    def distance(blend: Blend, to: torch.Tensor) -> float:
        return float((blend.predict(sources) - to)[inner].abs().mean())

    assert distance(Blend(experts, 1, None), slices) > 0.04
    assert distance(Blend(experts, 1, alignment), slices) < 0.01
    assert distance(Blend(experts, 0, alignment), moved) < 0.01


def test_where_a_source_was_not_imaged_the_others_make_the_image() -> None:
    image = texture(96, 96, detail=10).float()
    moved = torch.roll(image, (0, 9), dims=(2, 3))
    moved[..., :9] = 0  # nine columns left the picture
    experts = (Expert(Made(lambda its: its), (0,), 0.25, 0), Expert(Made(lambda its: 0 * its + 1), (1,), 0.75, 1))
    made = Blend(experts, 0, pair_alignment(ModelConfig(alignment="affine"))).predict(torch.cat([image, moved], dim=1))
    torch.testing.assert_close(made[..., 88:], image[..., 88:])  # the second has no voxel for these columns
    torch.testing.assert_close(made[..., 12:80], (0.25 * image + 0.75)[..., 12:80])
    second = Blend(experts[1:], 0, pair_alignment(ModelConfig(alignment="affine")))
    gaps = WithGaps(second).predict(torch.cat([image, moved], dim=1))[:, 1]
    assert gaps[..., 88:].eq(1).all()
    assert gaps[..., 12:80].eq(0).all()


@pytest.mark.parametrize(
    ("experts", "pose"),
    [
        ([("T1", True, 0.4), ("T2", True, 0.6)], "T2"),
        ([("T1", False, 0.9), ("T2", True, 0.1)], "T2"),  # the target lies with T2
        ([("T1", False, 0.9), ("T2", False, 0.1)], "T1"),
    ],
)
def test_the_pose_of_a_blend(experts: list[tuple[str, bool, float]], pose: str) -> None:
    assert pose_of(experts) == pose
