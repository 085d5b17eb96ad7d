import dataclasses
from pathlib import Path

import nibabel
import numpy as np
import pytest

from agi_core.data.intensity import scale_intensity
from agi_core.errors import DataError
from agi_core.scoring.evaluation import evaluate
from agi_core.scoring.pairs import Pair, find_pairs
from agi_core.scoring.volume import Intervals, image_fault, score_pair
from tests.support.brats_tree import AFFINE, read, save, write_subject


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A real t2f, and a synthetic one with noise in its units."""
    name = write_subject(tmp_path / "data", 1, modalities=("t2f",))
    real = read(tmp_path / "data" / name / f"{name}-t2f.nii.gz")
    noise = np.random.default_rng(0).normal(0, 40, real.shape)
    save(tmp_path / "made" / f"{name}-t2f.nii.gz", np.where(real > 0, real + noise, 0).astype(np.float32))
    return find_pairs(tmp_path / "data", tmp_path / "made", layout="brats")[0][0]


def rewritten(pair: Pair, data: np.ndarray, affine: np.ndarray = AFFINE) -> Pair:
    save(pair.synthetic, data.astype(np.float32), affine)
    return pair


def test_figures_by_hand_on_the_real_scans_scale(pair: Pair) -> None:
    """A step of a tenth of the real range in each part, and only there."""
    assert pair.seg is not None
    real, labels = read(pair.real).astype(np.float32), read(pair.seg)
    scaled, low, high = scale_intensity(real)
    step = np.choose(labels, (0.0, 0.1, 0.2, 0.3)).astype(np.float32)
    inner = np.where(scaled > 0.5, scaled - step, scaled + step)  # without leaving 0 to 1
    figures = score_pair(rewritten(pair, np.where(real > 0, low + inner * (high - low), 0))).figures
    n = [int((labels == label).sum()) for label in range(4)]
    assert figures["mae_oedema"] == pytest.approx(0.2, abs=1e-3)
    assert figures["psnr_db_oedema"] == pytest.approx(-20 * np.log10(0.2), abs=0.05)
    assert figures["psnr_db_enhancing"] == pytest.approx(-20 * np.log10(0.3), abs=0.05)
    assert figures["mae_tumour"] == pytest.approx((0.1 * n[1] + 0.2 * n[2] + 0.3 * n[3]) / sum(n[1:]), abs=1e-3)
    assert figures["mae_healthy"] < 1e-3
    assert figures["ssim_tumour"] < figures["ssim_healthy"]


def test_coverage_by_hand(pair: Pair, tmp_path: Path) -> None:
    """Errors of 0, 0.1, 0.2 and 0.3 by label, and an interval of 3 x 0.05 where anything was foretold."""
    assert pair.seg is not None
    real, labels = read(pair.real).astype(np.float32), read(pair.seg)
    scaled, low, high = scale_intensity(real)
    step = np.choose(labels, (0.0, 0.1, 0.2, 0.3)).astype(np.float32)
    inner = np.where(scaled > 0.5, scaled - step, scaled + step)
    foretold = np.where(real > 0, 0.05, 0).astype(np.float32)
    foretold[:14] = 0
    save(tmp_path / "maps" / pair.synthetic.name, foretold)
    rewritten(pair, np.where(real > 0, low + inner * (high - low), 0))
    intervals = Intervals(tmp_path / "maps", pair.synthetic.parent, factor=3)
    figures = score_pair(pair, intervals=intervals).figures
    inside = labels[(labels > 0) & (foretold > 0)] == 1
    assert figures["coverage_healthy"] == 1
    assert figures["coverage_oedema"] == figures["coverage_enhancing"] == 0
    assert 0 < figures["coverage_tumour"] == pytest.approx(inside.mean())
    assert not [name for name in score_pair(pair).figures if name.startswith("coverage")]
    head, tumour = (f"{figures[f'coverage_{region}']:.0%}" for region in ("head", "tumour"))
    told = f"{head} in head, 100% in healthy, {tumour} in tumour, 0% in oedema, 0% in enhancing"
    assert evaluate([pair], notes=[], intervals=intervals).notes[-1].endswith(f"not 90 % of the voxels, but {told}")


def test_both_scales_are_one(pair: Pair) -> None:
    """The units of the real scan, and 0 to 1 for its percentiles as `synthesize` writes them."""
    in_units = score_pair(pair)
    _, low, high = scale_intensity(read(pair.real).astype(np.float32))
    data = read(pair.synthetic)
    scaled = rewritten(pair, np.where(data > 0, (data - low) / (high - low), 0).clip(0, 1))
    by_percentiles = score_pair(scaled)
    for name in ("psnr_db_tumour", "mae_head", "ssim_oedema"):
        assert by_percentiles.figures[name] == pytest.approx(in_units.figures[name], rel=1e-3)
    guess = "its values, from 0 to 1, were taken for the real scan's 0.5th to 99.5th percentile"
    assert by_percentiles.doubts == (guess,)
    assert in_units.doubts == score_pair(scaled, percentiles=True).doubts == ()


@pytest.mark.parametrize(
    ("factor", "offset", "said"),
    [(20, 0, "2[01]"), (0.04, 0, r"0\.04"), (1 / 600, -1, r"0\.00"), (1 / 1200, -0.05, r"0\.00.*from 0 to 1, clipped")],
)
def test_another_scale_is_refused(pair: Pair, factor: float, offset: float, said: str) -> None:
    """The third one is from -1 to 1, as networks that end in tanh have it, the fourth exceeds 0 to 1 a little."""
    with pytest.raises(DataError, match=rf"is on another scale than .*: its brightest voxels have {said}"):
        score_pair(rewritten(pair, (read(pair.synthetic) * factor + offset).clip(-1)))


@pytest.mark.parametrize(("factor", "told"), [(0.7, "0.7"), (1.0, ""), (1.4, "1.4")])
def test_a_wrong_factor_of_the_units_is_said(pair: Pair, factor: float, told: str) -> None:
    """Of the real scan itself, so that its own brightness counts as right."""
    real = read(pair.real) * factor
    real[0, 0, 0] = 1  # no copy
    doubts = score_pair(rewritten(pair, real)).doubts
    said = f"its brightest voxels have {told} times the value of the real ones: that is an error"
    assert doubts[:1] == ((said,) if told else ())


@pytest.mark.parametrize(("lowest", "said"), [(-0.2, True), (0.0, False)])
def test_negative_values_where_the_real_scan_has_none_are_said(pair: Pair, lowest: float, said: bool) -> None:
    """The real scan lies from 0 to 1 here, so only the sign tells that it is another scale."""
    real, synthetic = (read(path).astype(np.float32) / 2000 for path in (pair.real, pair.synthetic))
    save(pair.real, real)
    synthetic[0, 0, 0] = lowest
    doubts = score_pair(rewritten(pair, synthetic)).doubts
    assert ("it has negative values and the real scan has none; they are scored as black" in doubts) == said


def test_a_copy_of_the_real_scan_is_said(pair: Pair) -> None:
    assert score_pair(rewritten(pair, read(pair.real))).doubts == ("it is the real scan, voxel for voxel",)


def test_a_real_scan_from_0_to_1_has_units_of_its_own(pair: Pair) -> None:
    """Then values of `synthesize` cannot be told apart, but whoever made them knows, and so does their header."""
    real, synthetic = (read(path).astype(np.float32) / 2000 for path in (pair.real, pair.synthetic))
    save(pair.real, real)
    in_units, known = (score_pair(rewritten(pair, synthetic), percentiles=known) for known in (False, True))
    assert in_units.figures["psnr_db_head"] > known.figures["psnr_db_head"] + 3
    told = "its values lie from 0 to 1 as the real scan's, and were taken for the same units"
    assert (in_units.doubts, known.doubts) == ((told,), ())
    descrip = b"synthetic t2f; 0..1 = p0.5..p99.5 of a real one"
    image = nibabel.Nifti1Image(synthetic, AFFINE)
    image.header["descrip"] = descrip
    nibabel.save(image, pair.synthetic)
    said_in_header = score_pair(pair)
    assert (said_in_header.figures, said_in_header.doubts) == (known.figures, ())


def test_the_background_of_a_scan_with_negative_values_is_black_in_both(pair: Pair) -> None:
    """A stripped head of mean 0 and spread 1, as BraTS is often prepared, and the same voxels as synthetic ones."""
    real = read(pair.real).astype(np.float32)
    head = real > 0
    scored = np.where(head, (real - real[head].mean()) / real[head].std(), 0)
    save(pair.real, scored)
    figures = score_pair(rewritten(pair, scored)).figures
    assert scored.min() < -1
    assert figures["ssim_head"] == pytest.approx(1)
    assert figures["mae_head"] == 0


def test_a_black_volume_is_scored_and_named(pair: Pair) -> None:
    black = score_pair(rewritten(pair, np.zeros(read(pair.real).shape)))
    assert black.doubts == ("the synthetic volume is constant within the head (0.00 of 0 to 1)",)
    assert black.figures["psnr_db_tumour"] < 10
    assert black.figures["ssim_tumour"] < 0.1 < black.figures["brasyn_ssim_tumour"]


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (np.linspace(0.1, 0.9, 100), None),
        (np.full(100, 0.4), "constant within the head (0.40 of 0 to 1)"),
        (np.repeat([0.0, 1.0, 0.5], [30, 30, 40]), "saturated: 60% of the head is black or white"),
    ],
)
def test_faults_of_an_image(values: np.ndarray, fault: str | None) -> None:
    assert image_fault(values) == fault


def test_without_a_segmentation_the_head_alone_is_scored(pair: Pair) -> None:
    figures = score_pair(dataclasses.replace(pair, seg=None)).figures
    regions = {name for name in figures if name.startswith(("ssim_", "psnr_db_", "mae_", "brasyn_"))}
    assert regions == {"ssim_head", "psnr_db_head", "mae_head"}


def test_an_empty_segmentation_has_no_tumour(pair: Pair) -> None:
    assert pair.seg is not None
    save(pair.seg, np.zeros(read(pair.seg).shape, dtype=np.uint8))
    figures = score_pair(pair).figures
    assert figures["psnr_db_healthy"] == figures["psnr_db_head"]
    assert {"brasyn_ssim_healthy", "ssim_healthy"} < set(figures)
    assert not [name for name in figures if name.endswith(("tumour", "oedema", "enhancing"))]
    assert evaluate([pair], notes=[]).notes == ["no segmentation holds a tumour, and so there are no figures of one"]


def test_another_grid_is_interpolated_and_said(pair: Pair) -> None:
    moved = AFFINE.copy()
    moved[:3, 3] = 0.5
    scored = score_pair(rewritten(pair, read(pair.synthetic), moved))
    assert scored.doubts == ("interpolated from another grid",)
    moved[:3, 3] = 500
    with pytest.raises(DataError, match="covers 0% of the head in"):
        score_pair(rewritten(pair, read(pair.synthetic), moved))


def test_a_volume_of_a_part_of_the_head_is_scored_and_said(pair: Pair) -> None:
    """The lower slices of the real scan: what lies above is as wrong as black."""
    real = read(pair.real).astype(np.float32)
    scored = score_pair(rewritten(pair, real[:, :, :14]))
    voxels, scaled = np.count_nonzero(real), scale_intensity(real)[0]
    covered = np.count_nonzero(real[:, :, :14]) / voxels
    assert 0.5 < covered < 0.7
    told = f"covers {covered:.0%} of the head; the rest is scored as black"
    assert scored.doubts == ("interpolated from another grid", told)
    assert scored.figures["mae_head"] == pytest.approx(scaled[:, :, 14:].sum() / voxels, rel=1e-4)


def test_the_picture_is_the_slice_with_most_tumour(pair: Pair) -> None:
    assert pair.seg is not None
    picture, labels = score_pair(pair).picture, read(pair.seg)
    k = int(np.argmax((labels > 0).sum(axis=(0, 1))))
    np.testing.assert_array_equal(picture.tumour, (labels[:, :, k] > 0).T)
    assert picture.spacing_mm == (2, 2)
    assert picture.real.shape == picture.synthetic.shape == picture.head.shape == picture.tumour.shape
