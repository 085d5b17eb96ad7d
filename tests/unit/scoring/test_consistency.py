import numpy as np
import pytest
from skimage.filters import threshold_multiotsu
from skimage.metrics import structural_similarity

from agi_core.scoring.consistency import CLASSES, PLANES, consistency, two_thresholds

SHAPE = (20, 24, 16)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
EVERYWHERE = np.ones(SHAPE, dtype=bool)


def smooth(seed: int) -> np.ndarray:
    phase = np.random.default_rng(seed).uniform(0, 6, 3)[:, None, None, None]
    return np.asarray(0.5 + 0.5 * np.sin(np.indices(SHAPE) / 3 + phase).mean(axis=0))


def test_neighbouring_slices_as_scikit_image_has_them() -> None:
    volume, options = smooth(0), {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    figures = consistency(volume, volume, EVERYWHERE, affine=AFFINE)
    for axis, plane in enumerate(PLANES):
        slices = np.moveaxis(volume, axis, 0)
        expected = np.mean(
            [
                structural_similarity(a, b, data_range=1.0, **options)
                for a, b in zip(slices[1:], slices[:-1], strict=True)
            ]
        )
        assert figures[f"neighbours_real_{plane}"] == pytest.approx(expected, abs=1e-6)
        assert figures[f"neighbours_synthetic_{plane}"] == figures[f"neighbours_real_{plane}"]


def test_a_volume_that_jumps_from_slice_to_slice_is_seen_across_them_alone() -> None:
    """Every second axial slice is darker, as a model of single slices may make them."""
    real = smooth(0)
    jumping = real - 0.2 * (np.arange(SHAPE[2]) % 2)
    figures = consistency(jumping.clip(0, 1), real, EVERYWHERE, affine=AFFINE)
    loss = {p: figures[f"neighbours_real_{p}"] - figures[f"neighbours_synthetic_{p}"] for p in PLANES}
    assert loss["axial"] > 0.1
    assert loss["axial"] > 5 * max(loss["sagittal"], loss["coronal"])


def blocks(*, middle: int, at: int = 0) -> np.ndarray:
    """Dark, with a middle block of so many sagittal slices from `at` on, and two bright slices at the end."""
    volume = np.full(SHAPE, 0.1)
    volume[at : at + middle], volume[18:] = 0.5, 0.9
    return volume


def test_volumes_and_centres_of_tissues_by_hand() -> None:
    figures = consistency(blocks(middle=6, at=2), blocks(middle=8), EVERYWHERE, affine=AFFINE)
    assert [figures[f"volume_ratio_{name}"] for name in CLASSES] == [12 / 10, 6 / 8, 1]
    # sagittal slices of 1 mm: the middle block's centre goes from 3.5 to 4.5
    assert figures["centroid_shift_mm_middle"] == pytest.approx(1)
    assert figures["centroid_shift_mm_bright"] == 0
    mirrored = consistency(blocks(middle=8)[:, :, ::-1], blocks(middle=8), EVERYWHERE, affine=AFFINE)
    assert max(mirrored[f"centroid_shift_mm_{name}"] for name in CLASSES) == pytest.approx(0)


def test_an_axis_counts_with_its_spacing() -> None:
    real = np.moveaxis(np.full(SHAPE, 0.1), 2, 0)
    real[:4], real[4:8] = 0.5, 0.9
    moved = np.roll(real, 2, axis=0)
    real, moved = (np.moveaxis(volume, 0, 2) for volume in (real, moved))
    assert consistency(moved, real, EVERYWHERE, affine=AFFINE)["centroid_shift_mm_bright"] == pytest.approx(2 * 3)


def test_a_black_volume_has_no_bright_tissue() -> None:
    figures = consistency(np.zeros(SHAPE), blocks(middle=8), EVERYWHERE, affine=AFFINE)
    assert (figures["volume_ratio_bright"], figures["volume_ratio_dark"]) == (0, 2)
    assert "centroid_shift_mm_bright" not in figures


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_agree_with_scikit_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(mean, 0.06, n) for mean, n in ((0.2, 900), (0.5, 2000), (0.8, 500))]).clip(0, 1)
    classes = [np.digitize(values, cuts) for cuts in (two_thresholds(values), threshold_multiotsu(values, nbins=128))]
    assert np.mean(classes[0] != classes[1]) < 0.01
