"""What is odd about voxels is said, and nothing is said about honest ones."""

import os
from pathlib import Path

import numpy as np
import pytest

from agi_core.data.intensity import foreground_mask, scale_intensity
from agi_core.data.nifti import FloatArray, read_volume
from agi_core.data.plausibility import contrast_doubts, share_doubts, value_doubts

SHARED_DATA_DIR = Path(os.environ.get("AGI_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
INDEX = (np.indices((24, 28, 16)) - np.array([11.5, 13.5, 7.5])[:, None, None, None]) / 8
HEAD = (INDEX**2).sum(axis=0) < 1


def scan(*, stripped: bool = False) -> FloatArray:
    rng = np.random.default_rng(0)
    around = 0 if stripped else rng.uniform(1, 60, HEAD.shape)
    return np.where(HEAD, rng.uniform(300, 1000, HEAD.shape), around).astype(np.float32)


@pytest.mark.skipif(not SHARED_DATA_DIR.is_dir(), reason="real scans are not part of the repository")
@pytest.mark.parametrize("folder", ["ixi", pytest.param("ms_bids", marks=pytest.mark.slow), "raw", "templates"])
def test_no_honest_scan_is_doubted(folder: str) -> None:
    paths = sorted((SHARED_DATA_DIR / folder).rglob("*.nii.gz"))
    assert paths
    for path in paths:
        data = read_volume(path).data
        assert value_doubts(data) == [], path
        head = foreground_mask(data)
        assert [*share_doubts(head), *contrast_doubts(scale_intensity(data)[0], head)] == [], path


@pytest.mark.parametrize("stripped", [False, True])
def test_an_honest_scan_has_no_doubts(stripped: bool) -> None:
    data = scan(stripped=stripped)
    assert value_doubts(data) == share_doubts(HEAD) == contrast_doubts(data / 1000, HEAD) == []


def test_what_is_not_believed_is_counted_with_an_example() -> None:
    data = scan()
    data[3, 4, 5] = 32767
    (doubt,) = value_doubts(data)
    assert doubt.cause == "some values lie far from all others, and are not believed"
    assert doubt.found.startswith("1 of 10752 voxels, such as 32767; the others are 1.0")


@pytest.mark.parametrize("offset", [-1.0, 1000.0])
def test_a_stripped_scan_whose_background_is_not_zero(offset: float) -> None:
    """As where it was z-scored over the whole volume."""
    (doubt,) = value_doubts(scan(stripped=True) + np.float32(offset))
    assert str(doubt) == (
        "the background is a constant other than 0, and is scaled as if it were head"
        f" (80% of the voxels are {offset:g})"
    )


def test_a_scan_that_is_cut_off_at_the_top() -> None:
    (doubt,) = value_doubts(scan().clip(None, 900))
    assert str(doubt) == "the brightest voxels all have one value: the scan is cut off (3%)"


@pytest.mark.parametrize(("values", "doubted"), [(31, True), (60, False)])
def test_a_drawing_has_few_values(values: int, doubted: bool) -> None:
    causes = [doubt.cause for doubt in value_doubts(np.ceil(scan() * (values / 1000)))]
    assert ("the scan has very few different values" in causes) == doubted


@pytest.mark.parametrize(("share", "doubted"), [(0.01, True), (0.03, False), (0.85, False), (0.95, True)])
def test_the_heads_share(share: float, doubted: bool) -> None:
    head = np.zeros(10_000, dtype=np.bool_)
    head[: int(share * head.size)] = True
    assert bool(share_doubts(head.reshape(10, 10, 100))) == doubted


def test_a_scan_without_contrast() -> None:
    noise = np.random.default_rng(0).uniform(0, 1, HEAD.shape).astype(np.float32)
    (doubt,) = contrast_doubts(noise, HEAD)
    assert doubt.cause == "the head is hardly brighter than what is around it"
    assert contrast_doubts(noise, np.ones_like(HEAD)) == []  # nothing is around it
