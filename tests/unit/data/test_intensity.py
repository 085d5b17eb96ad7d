"""Believed values, scaling and the head, against hand-made values and scikit-image."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import threshold_otsu

from agi_core.data import intensity
from agi_core.errors import DataError
from tests.support.head_scans import ball, head_scan

Array = np.ndarray[Any, np.dtype[Any]]


def test_scaling_uses_the_percentiles_of_all_voxels() -> None:
    data = np.arange(1, 1002, dtype=np.float32).reshape(7, 11, 13)
    scaled, lo, hi = intensity.scale_intensity(data)
    assert (lo, hi) == (6, 996)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, np.clip((data - 6) / 990, 0, 1), atol=1e-6)


@pytest.mark.parametrize("shift", [0, -2000])  # z-scored volumes are negative inside the brain
def test_scaling_of_a_stripped_volume_ignores_its_zeros_and_keeps_them(shift: int) -> None:
    data, head = np.zeros((16, 16, 16), dtype=np.float32), np.flatnonzero(ball((16, 16, 16), 7))[:1001]
    data.ravel()[head] = np.arange(1, 1002) + shift
    scaled, lo, hi = intensity.scale_intensity(data)
    assert (lo, hi) == (6 + shift, 996 + shift)
    assert (scaled[data == 0] == 0).all()
    np.testing.assert_allclose(scaled.ravel()[head[500]], (501 + shift - lo) / 990, atol=1e-6)


def test_up_to_30_percent_of_zeros_is_no_stripping() -> None:
    data = np.ones((10, 10, 10), dtype=np.float32)
    scattered = np.random.default_rng(0).permutation(1000)
    data.ravel()[scattered[:300]] = 0
    assert not intensity.values_of(data).stripped
    data.ravel()[scattered[300]] = 0
    assert intensity.values_of(data).stripped


@pytest.mark.parametrize("padding", [np.s_[:, :, :6], np.s_[:14], np.s_[:18, :22, :12]])
def test_zeros_beside_noise_are_padding_and_no_stripping(padding: Any) -> None:
    data, head = head_scan(), ball((24, 28, 16), 8)
    data[padding] = 0
    head[padding] = False
    assert (data == 0).mean() > 0.3
    assert not intensity.values_of(data).stripped
    found = intensity.foreground_mask(data)
    assert found[head].mean() > 0.95
    assert found[~head].mean() < 0.1


@pytest.mark.parametrize("air", ["turned on a larger grid", "mostly zero"])
def test_a_head_in_dark_air_beside_zeros_is_found_without_the_air(air: str) -> None:
    shape, radius = (48, 56, 40), 12
    head = ball(shape, radius)
    rng = np.random.default_rng(0)
    data = np.where(head, rng.uniform(600, 1000, shape), rng.uniform(1, 30, shape)).astype(np.float32)
    if air == "mostly zero":
        data[~head] = np.floor(rng.rayleigh(0.8, int((~head).sum())))
    else:
        i, j, _ = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
        data[(abs(i + j) > 24) | (abs(i - j) > 24)] = 0
    values = intensity.values_of(data)
    assert values.blank
    assert not values.stripped
    found = intensity.foreground_mask(data)
    assert found[head].mean() > 0.99
    assert found[~head].mean() < 0.01
    assert (values.low, values.high) == tuple(np.percentile(data[data != 0], (0.5, 99.5)))
    assert intensity.values_of(data * head).stripped


OUTLIERS: dict[str, Any] = {
    "one voxel": (np.s_[12, 14, 8], 32767),
    "one voxel of air": (np.s_[1, 1, 1], 32767),
    "one dark voxel": (np.s_[12, 14, 8], -32768),
    "a block of 1 %": (np.s_[:5, :5, :5], 32767),
    "a block of 6 %": (np.s_[:, :5, :5], 32767),
    "a dark block": (np.s_[:, :5, :5], -32768),
    "different values": (np.s_[1, 1, :], np.linspace(2e4, 3e4, 16)),
    "a quarter": (np.s_[:, :, :4], 32767),  # of a stripped volume it would be most of what is not zero
}


@pytest.mark.parametrize(
    ("name", "stripped"), [(name, stripped) for name in OUTLIERS for stripped in (False, True)][:-1]
)
def test_voxels_far_from_all_others_change_nothing_else(name: str, stripped: bool) -> None:
    where, value = OUTLIERS[name]
    data = head_scan()
    data[:, :, :4] = np.random.default_rng(1).uniform(1, 60, (24, 28, 4))  # the head ends where the largest block does
    if stripped:
        data *= data > 500
    broken = data.copy()
    broken[where] = value
    values = intensity.values_of(broken)
    believed = data[data != 0] if stripped else data
    assert believed.min() <= values.least < values.greatest <= believed.max()
    np.testing.assert_array_equal(intensity.foreground_mask(broken), intensity.foreground_mask(data))
    same = broken == data
    scaled, expected = intensity.scale_intensity(broken)[0], intensity.scale_intensity(data)[0]
    np.testing.assert_allclose(scaled[same], expected[same], atol=0.01)


@given(seed=st.integers(0, 2**32 - 1), tail=st.floats(0, 2.5))
@settings(max_examples=30, deadline=None)
def test_a_tail_of_bright_vessels_is_believed(seed: int, tail: float) -> None:
    data = head_scan(seed)
    lo, hi = np.percentile(data, (0.5, 99.5))
    data[12, 14, 6:9] = hi + tail * (hi - lo)
    values = intensity.values_of(data)
    assert (values.least, values.greatest) == (data.min(), data.max())


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 2000), scale=st.floats(1e-3, 1e5))
@settings(max_examples=50, deadline=None)
def test_percentiles_of_sorted_values_are_those_of_numpy_to_the_last_bit(seed: int, size: int, scale: float) -> None:
    ordered = np.sort(np.random.default_rng(seed).normal(0, scale, size)).astype(np.float32)
    percents = (0.5, 99.5, 50.0)
    assert [intensity._percentile(ordered, percent) for percent in percents] == [*np.percentile(ordered, percents)]


@given(gain=st.floats(0.01, 100), offset=st.floats(-100, 100))
@settings(max_examples=25, deadline=None)
def test_scaling_does_not_depend_on_gain_and_offset(gain: float, offset: float) -> None:
    data = np.random.default_rng(1).uniform(1, 2, (6, 6, 6)).astype(np.float32)
    expected, _, _ = intensity.scale_intensity(data)
    scaled, _, _ = intensity.scale_intensity((gain * data + offset).astype(np.float32))
    np.testing.assert_allclose(scaled, expected, atol=2e-3)


def test_a_volume_with_one_bright_voxel_cannot_be_scaled() -> None:
    data = np.full((10, 10, 10), 3, dtype=np.float32)
    data[0, 0, 0] = 9
    with pytest.raises(DataError, match="nearly all voxels are 3"):
        intensity.scale_intensity(data)


def test_a_head_that_is_lost_among_zeros_has_a_threshold_of_its_own_values() -> None:
    data = np.zeros((60, 60, 60), dtype=np.float32)
    data[:5, :5, :5] = 5 + np.random.default_rng(0).random((5, 5, 5))  # at a face: not stripped
    values = intensity.values_of(data)
    assert values.blank
    assert not values.stripped
    assert 5 <= values.threshold <= 6


@given(seed=st.integers(0, 2**32 - 1), exponent=st.floats(0.3, 4))
@settings(max_examples=30, deadline=None)
def test_otsu_agrees_with_scikit_image(seed: int, exponent: float) -> None:
    data = (1000 * np.random.default_rng(seed).random((8, 9, 10)) ** exponent).astype(np.float32)
    assert intensity.otsu_threshold(np.sort(data, axis=None)) == pytest.approx(
        threshold_otsu(data.astype(np.float64)), rel=1e-9
    )


def test_the_head_is_the_largest_component_without_holes() -> None:
    data = head_scan()
    head = ball(data.shape, 8)
    data[10:13, 12:15, 7:9] = 5  # a ventricle
    data[:2, :2, :2] = 1000  # a bright speck outside
    np.testing.assert_array_equal(intensity.foreground_mask(data), head)


def test_a_cavity_that_opens_at_the_first_slice_is_filled_there() -> None:
    data = head_scan(shape=(24, 28, 10))  # the field of view ends inside the head
    data[10:13, 12:15, :8] = 5
    np.testing.assert_array_equal(intensity.foreground_mask(data), ball(data.shape, 8))


def test_the_head_of_a_stripped_volume_is_where_it_is_not_zero() -> None:
    head = ball((20, 20, 20), 7)
    data = np.where(head, np.random.default_rng(0).uniform(1, 1000, head.shape), 0).astype(np.float32)
    np.testing.assert_array_equal(intensity.foreground_mask(data), head)
