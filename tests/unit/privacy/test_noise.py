"""The keystream against the standard's own vectors, the numbers against the distributions they should have."""

import os
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from agi_core.errors import PrivacyError
from agi_core.privacy.noise import InsecureNoiseWarning, NoiseSource, insecure_seeded_noise, poisson_lot, system_noise

Seeded = Callable[[int], NoiseSource]
COUNT = 400_001  # odd: the last normal of a pair is dropped
SIGNIFICANCE = 1e-4


def test_the_keystream_is_that_of_the_standard() -> None:
    """NIST SP 800-38A, F.5.5 (CTR-AES256): the output blocks."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    source = NoiseSource(key, counter=bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"))
    assert source.read(8).hex() == "0bdf7df1591716335e9a8b15c860c502"[:16]
    assert source.read(24).hex() == "0bdf7df1591716335e9a8b15c860c502"[16:] + "5a6e699d536119065433863c8f657b94"


def test_uniform_numbers_are_the_first_53_bits_of_each_word() -> None:
    key = bytes(range(32))
    words = np.frombuffer(NoiseSource(key).read(80), dtype="<u8")
    expected = [int(word) // 2**11 / 2**53 for word in words]
    assert NoiseSource(key).uniform(10).tolist() == expected


def test_uniform_numbers_are_uniform(seeded: Seeded) -> None:
    u = seeded(1).uniform(COUNT)
    assert 0 <= u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > SIGNIFICANCE


def test_normal_numbers_are_normal_and_independent(seeded: Seeded) -> None:
    z = seeded(2).normal(COUNT)
    assert z.shape == (COUNT,)
    assert z.dtype == np.float64
    assert stats.kstest(z, "norm").pvalue > SIGNIFICANCE
    # 5 standard errors of the moments 0, 1, 0, 3 of a normal: variances 1, 2, 15, 96
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(z**power) - expected) < 5 * (variance / COUNT) ** 0.5
    half = COUNT // 2  # the halves hold the two members of each pair
    for lag in (1, 2, half, half + 1):
        assert abs(np.corrcoef(z[:-lag], z[lag:])[0, 1]) < 5 / (COUNT - lag) ** 0.5
        assert abs(np.corrcoef(z[:-lag] ** 2, z[lag:] ** 2)[0, 1]) < 5 / (COUNT - lag) ** 0.5


def test_the_tails_are_those_of_a_normal(seeded: Seeded) -> None:
    z = seeded(3).normal(4_000_000)
    for bound in (2.0, 3.0, 4.0, 4.5):
        for tail in (z, -z):
            expected = len(z) * stats.norm.sf(bound)
            assert abs((tail > bound).sum() - expected) < 5 * expected**0.5


def test_the_system_source_repeats_nothing() -> None:
    assert system_noise().read(32) != system_noise().read(32)
    source = system_noise()
    assert source.normal(4).tolist() != source.normal(4).tolist()
    assert source.seed() != source.seed()


def test_a_seeded_source_says_that_it_protects_nobody() -> None:
    with pytest.warns(InsecureNoiseWarning, match="protects nobody"):
        first = insecure_seeded_noise(7)
    with pytest.warns(InsecureNoiseWarning):
        second = insecure_seeded_noise(7)
    assert first.normal(5).tolist() == second.normal(5).tolist()


def test_a_source_does_not_cross_a_fork(seeded: Seeded, monkeypatch: pytest.MonkeyPatch) -> None:
    source = seeded(4)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(PrivacyError, match="fork"):
        source.normal(1)


def test_lots_are_poisson(seeded: Seeded) -> None:
    """Sizes are binomial, and each subject is in as many lots as any other, independently of its neighbour."""
    noise, lots, count, rate = seeded(5), 4000, 20, 0.15
    drawn = np.zeros((lots, count))
    for row in drawn:
        row[poisson_lot(count, rate=rate, noise=noise)] = 1
    sizes = np.bincount(drawn.sum(axis=1).astype(int), minlength=count + 1)
    expected = lots * stats.binom.pmf(np.arange(count + 1), count, rate)
    usual = expected > 5
    assert stats.chisquare(sizes[usual], expected[usual] * sizes[usual].sum() / expected[usual].sum()).pvalue > 1e-4
    assert sizes[0] > 0  # the empty lot is not drawn again
    error = (rate * (1 - rate) / lots) ** 0.5
    assert np.abs(drawn.mean(axis=0) - rate).max() < 5 * error
    assert abs(np.mean(drawn[:, 0] * drawn[:, 1]) - rate**2) < 5 * error


def test_a_rate_of_one_takes_everybody(seeded: Seeded) -> None:
    assert poisson_lot(5, rate=1.0, noise=seeded(6)) == [0, 1, 2, 3, 4]
