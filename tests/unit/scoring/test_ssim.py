import numpy as np
import pytest
from skimage.metrics import structural_similarity

from agi_core.scoring.ssim import brasyn_ssim, ssim_volume
from tests.support.head_scans import ball

SHAPE = (30, 26, 28)


def volumes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball with texture on a scale of hundreds, and the same with noise on a scale of its own."""
    rng = np.random.default_rng(seed)
    real = 400 * ball(SHAPE, 12) * (0.5 + rng.random(SHAPE))
    return 3 * np.abs(real + rng.normal(0, 80, SHAPE)) + 7, real


def by_scikit_image(synthetic: np.ndarray, real: np.ndarray, mask: np.ndarray) -> float:
    """The steps of the challenge, one by one."""
    masked = []
    for volume in (synthetic, real):
        low, high = max(0, np.percentile(volume, 0.5)), np.percentile(volume, 99.5)
        masked.append((np.clip(volume, low, high) - low) / (high - low) * mask)
    data_range = max(volume.max() - volume.min() for volume in masked)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(*masked, data_range=data_range, **options))


@pytest.mark.parametrize("radius", [2, 5, 40])
def test_brasyn_ssim_agrees_with_scikit_image(radius: int) -> None:
    synthetic, real = volumes(radius)
    mask = ball(SHAPE, radius)
    assert brasyn_ssim(synthetic, real, mask) == pytest.approx(by_scikit_image(synthetic, real, mask), abs=1e-6)
    assert brasyn_ssim(synthetic, real, ~mask) == (
        pytest.approx(by_scikit_image(synthetic, real, ~mask), abs=1e-6) if not mask.all() else None
    )


def test_a_black_prediction_of_a_whole_tumour_looks_good() -> None:
    """The figure that the challenge's own SSIM gives to nothing at all, at full size."""
    shape = (240, 240, 155)
    tumour, head = np.zeros(shape, dtype=bool), np.zeros(shape)
    tumour[100:140, 100:140, 60:100] = ball((40, 40, 40), 20)
    head[40:200, 30:210, 20:140] = 0.5
    real = np.where(tumour, 0.5 + 0.5 * np.random.default_rng(0).random(shape), head)
    black = brasyn_ssim(np.zeros(shape), real, tumour)
    assert black is not None
    assert 0.991 < black < 0.993


def test_an_empty_mask_has_no_figure() -> None:
    synthetic, real = volumes(0)
    assert brasyn_ssim(synthetic, real, np.zeros(SHAPE, dtype=bool)) is None


def test_a_volume_of_few_slices_has_no_figure() -> None:
    synthetic, real = (volume[:, :, :10] for volume in volumes(0))
    assert brasyn_ssim(synthetic, real, np.ones(real.shape, dtype=bool)) is None
    assert np.isnan(ssim_volume(synthetic, real)).all()


def test_the_map_agrees_with_scikit_image() -> None:
    rng = np.random.default_rng(1)
    real = rng.random(SHAPE)
    synthetic = np.clip(real + rng.normal(0, 0.2, SHAPE), 0, 1)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    _, whole = structural_similarity(synthetic, real, data_range=1.0, **options)
    ours = ssim_volume(synthetic, real)
    inner = np.s_[5:-5, 5:-5, 5:-5]
    np.testing.assert_allclose(ours[inner], whole[inner], atol=1e-6)
    assert np.isnan(ours).sum() == ours.size - ours[inner].size
