import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from agi_core.metric_table import METRICS, PSNR_CEILING_DB, Metric, psnr_db
from agi_core.metrics import SubjectScore, mean_over_subjects, neighbour_ssim


def images(seed: int, slices: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    target = torch.rand(slices, 1, 24, 30, generator=g)
    return (target + 0.2 * torch.randn(target.shape, generator=g)).clamp(0, 1), target


def score(prediction: torch.Tensor, target: torch.Tensor, foreground: torch.Tensor) -> dict[str, float]:
    subject = SubjectScore()
    for k in range(len(target)):  # slice by slice, as evaluation does
        subject.add(prediction[k : k + 1], target[k : k + 1], foreground[k : k + 1])
    return subject.result()


def test_figures_by_hand() -> None:
    target = torch.full((1, 1, 12, 12), 0.5)
    prediction = target + 0.1
    result = score(prediction, target, torch.ones_like(target, dtype=torch.bool))
    assert result["psnr_db"] == pytest.approx(20.0, abs=1e-5)  # 10 log10(1 / 0.01)
    assert result["mae"] == pytest.approx(0.1, abs=1e-6)
    assert result["nmse"] == pytest.approx(0.01 / 0.25, abs=1e-6)
    # Constant images: variances 0, so SSIM is the luminance term (2 * .5 * .6 + 1e-4) / (.25 + .36 + 1e-4)
    assert result["ssim"] == pytest.approx(0.6001 / 0.6101, abs=1e-6)
    assert result["psnr_db_foreground"] == result["psnr_db"]


@pytest.mark.parametrize("seed", range(4))
def test_ssim_agrees_with_scikit_image(seed: int) -> None:
    prediction, target = images(seed)
    ours = score(prediction, target, torch.ones_like(target, dtype=torch.bool))["ssim"]
    theirs = [
        structural_similarity(p, t, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        for p, t in zip(prediction[:, 0].double().numpy(), target[:, 0].double().numpy(), strict=True)
    ]
    assert ours == pytest.approx(np.mean(theirs), abs=1e-6)


def test_identical_neighbours_are_alike_and_others_as_by_hand() -> None:
    """Constant slices have the luminance term alone; the pair with no foreground in common does not count."""
    volume = torch.tensor([0.5, 0.5, 0.6, 0.1])[:, None, None].expand(4, 12, 12)
    head = torch.ones(4, 12, 12, dtype=torch.bool)
    head[3] = False
    assert neighbour_ssim(volume[:2], head[:2]) == pytest.approx(1)
    assert neighbour_ssim(volume, head) == pytest.approx((1 + 0.6001 / 0.6101) / 2)
    assert neighbour_ssim(volume, ~head) is None
    assert neighbour_ssim(volume[:, :10], head[:, :10]) is None


def test_foreground_counts_only_the_head() -> None:
    target = torch.full((1, 1, 20, 20), 0.5)
    foreground = torch.zeros_like(target, dtype=torch.bool)
    foreground[..., 5:15, 5:15] = True
    prediction = torch.where(foreground, target, torch.ones_like(target))  # perfect inside, 0.5 off outside
    result = score(prediction, target, foreground)
    assert result["psnr_db_foreground"] == PSNR_CEILING_DB
    assert result["mae_foreground"] == 0
    assert result["mae"] == pytest.approx(0.5 * 300 / 400)


def test_an_empty_foreground_has_no_foreground_metrics() -> None:
    prediction, target = images(0)
    result = score(prediction, target, torch.zeros_like(target, dtype=torch.bool))
    assert set(result) == {"psnr_db", "ssim", "mae", "nmse"}


def test_psnr_of_equal_volumes_is_capped() -> None:
    assert psnr_db(0.0) == PSNR_CEILING_DB
    assert psnr_db(1.0) == 0.0


def test_mean_over_subjects_skips_absent_metrics() -> None:
    assert mean_over_subjects([{"psnr_db": 20.0, "mae": 1.0}, {"psnr_db": 30.0}]) == {"psnr_db": 25.0, "mae": 1.0}
    assert mean_over_subjects([]) == {}


def test_a_new_metric_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    rmse = Metric("RMSE", 4, lambda sums: math.sqrt(sums.square / sums.voxels))
    monkeypatch.setitem(METRICS, "rmse", rmse)
    target = torch.full((1, 1, 12, 12), 0.5)
    result = score(target + 0.1, target, torch.ones_like(target, dtype=torch.bool))
    assert result["rmse"] == result["rmse_foreground"] == pytest.approx(0.1, abs=1e-6)
