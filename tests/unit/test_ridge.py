"""The closed form against least squares on the voxels themselves, and what a stranger's statistics must satisfy."""

from collections.abc import Callable

import numpy as np
import pytest

from agi_core.errors import ProtocolError
from agi_core.ridge import Statistics, Vector, adopted, solve_own

rng = np.random.default_rng(0)
SIZE = 4


def voxels(count: int = 50, *, w: Vector | None = None) -> tuple[Vector, Vector]:
    """Features (count, SIZE), the first 1, and targets in [0, 1]: random ones, or w . features."""
    features = np.concatenate([np.ones((count, 1)), rng.random((count, SIZE - 1))], axis=1)
    return features, rng.random(count) if w is None else features @ w


def statistics(features: Vector, target: Vector) -> Statistics:
    return Statistics(features.T @ features / len(target), features.T @ target / len(target), float(np.mean(target**2)))


def test_least_squares_of_all_voxels_from_the_statistics_of_two_subjects() -> None:
    (f, y), (g, z) = voxels(), voxels()
    both = Statistics.mean([statistics(f, y), statistics(g, z)])
    expected, *_ = np.linalg.lstsq(np.concatenate([f, g]), np.concatenate([y, z]), rcond=None)
    w = both.solve(strength=0.0)
    np.testing.assert_allclose(w, expected, rtol=1e-8)
    error = np.mean((np.concatenate([f, g]) @ w - np.concatenate([y, z])) ** 2)
    assert both.mean_square_error(w) == pytest.approx(error, rel=1e-9)


def test_a_weight_counts_a_site_as_often() -> None:
    a, b = statistics(*voxels()), statistics(*voxels())
    thrice, weighted = Statistics.mean([a, b, b, b]), Statistics.mean([a, b], [1, 3])
    np.testing.assert_allclose(weighted.gram, thrice.gram, rtol=1e-12)
    np.testing.assert_allclose(weighted.moment, thrice.moment, rtol=1e-12)
    assert weighted.energy == pytest.approx(thrice.energy)


def test_ridge_regression_by_hand() -> None:
    """(A + s D)^-1 (b + s D w0) of one feature: (a + s a)^-1 (b + s a w0)."""
    one = Statistics(np.array([[2.0]]), np.array([3.0]))
    assert one.solve(strength=0.5) == pytest.approx(3 / 3)
    assert one.solve(strength=0.5, towards=np.array([4.0])) == pytest.approx((3 + 0.5 * 2 * 4) / 3)
    twins = Statistics(np.ones((2, 2)), np.ones(2))
    np.testing.assert_allclose(twins.solve(strength=0.0), [0.5, 0.5])


def test_subjects_that_agree_make_their_own_and_a_noisy_one_stays_with_the_common() -> None:
    own, common = np.array([0.1, 0.2, 0.3, 0.3]), np.array([0.3, 0.1, 0.1, 0.1])
    agreeing = [statistics(*voxels(w=own)) for _ in range(3)]
    np.testing.assert_allclose(solve_own(agreeing, towards=common), own, atol=1e-4)
    noisy = [statistics(*voxels(6)) for _ in range(3)]
    furthest = Statistics.mean(noisy).solve(strength=1e-6, towards=common)
    assert np.abs(solve_own(noisy, towards=common) - common).max() < np.abs(furthest - common).max()


def test_a_single_subject_is_shrunk_by_a_fixed_strength() -> None:
    single, common = statistics(*voxels()), np.zeros(SIZE)
    np.testing.assert_array_equal(solve_own([single], towards=common), single.solve(strength=1e-2, towards=common))


@pytest.mark.parametrize(
    ("energy", "subjects", "part"), [(1.25, 1, 0.875), (1.25, 2, 0.9375), (4.0, 1, 0.0), (3.0, 1, 0.0)]
)
def test_few_subjects_of_a_stranger_go_a_part_of_the_way(energy: float, subjects: int, part: float) -> None:
    """One feature that is 1, and a target of mean 1: the common 0 has a squared error of `energy`, the own 1 one less,
    so the gain is 4, 1/3 and 1/2 of what is left, and half of one gain may be of any scan."""
    its = [Statistics(np.ones((1, 1)), np.ones(1), energy)] * subjects
    w, reached = adopted(np.ones(1), its, common=np.zeros(1))
    assert reached == pytest.approx(part)
    assert w == pytest.approx([part])


def test_a_layer_that_gains_nothing_is_not_adopted() -> None:
    """What a stranger has solved may be worse than the common w, or as good to the last bit."""
    its = [Statistics(np.ones((1, 1)), np.ones(1), 1.0)]
    assert adopted(np.zeros(1), its, common=np.ones(1)) == (np.ones(1), 0.0)
    assert adopted(np.ones(1), its, common=np.ones(1)) == (np.ones(1), 0.0)


def test_what_a_site_tells_comes_back() -> None:
    told = statistics(*voxels())
    (numbers,) = told.arrays().values()
    assert numbers.shape == (SIZE * (SIZE + 1) // 2 + SIZE,)
    back = Statistics.from_arrays(told.arrays(), features=SIZE)
    np.testing.assert_array_equal(back.gram, told.gram)
    np.testing.assert_array_equal(back.moment, told.moment)


def test_two_sources_tell_65_numbers() -> None:
    assert Statistics(np.eye(10), np.zeros(10)).arrays()["statistics"].size == 65


def changed(place: int, value: float) -> Callable[[Vector], Vector]:
    def change(numbers: Vector) -> Vector:
        numbers[place] = value
        return numbers

    return change


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda numbers: numbers[:-1], "are not 14 numbers"),
        (lambda numbers: numbers.astype(np.float32), "of 64 bits"),
        (changed(3, np.nan), "finite"),
        (changed(0, 2.0), "cannot be means"),
        (changed(1, 5.0), "cannot be means"),  # |mean of a feature|^2 above the mean of its square
        (changed(10, 1.5), r"outside of \[0, 1\]"),
        (changed(5, 1e40), "cannot be means"),  # no float32, which the common gram becomes, holds it
        (changed(5, 1.1), "cannot be means"),  # the mean square of a feature in [0, 1]
    ],
)
def test_a_stranger_is_not_trusted(change: Callable[[Vector], Vector], cause: str) -> None:
    (numbers,) = statistics(*voxels()).arrays().values()
    with pytest.raises(ProtocolError, match=cause):
        Statistics.from_arrays({"statistics": change(numbers)}, features=SIZE)
    with pytest.raises(ProtocolError, match="are not 14 numbers"):
        Statistics.from_arrays({"other": numbers}, features=SIZE)


def test_no_large_entry_hides_what_the_others_are() -> None:
    """With a tolerance relative to the largest entry, the first two passed, and moved the common fit anywhere."""
    told = np.eye(4)
    told[3, 3] = 1e6
    for moment in ([0.1, 9.0, 0, 0], [0.1, 1.1, 0, 0]):
        with pytest.raises(ProtocolError, match=r"outside of \[0, 1\]"):
            Statistics.from_arrays(Statistics(told, np.array(moment)).arrays(), features=4, largest=1e3)
    fine = Statistics(told, np.array([0.1, 0.5, 0, 300.0]))
    Statistics.from_arrays(fine.arrays(), features=4, largest=1e3)
    told[1, 2] = told[2, 1] = 2.0  # above what their mean squares allow
    with pytest.raises(ProtocolError, match="cannot be means"):
        Statistics.from_arrays(Statistics(told, np.zeros(4)).arrays(), features=4, largest=1e3)


@pytest.mark.parametrize("square", [5e-324, 1e-320, 1e-300, 1e-160])
def test_no_tiny_mean_square_breaks_the_judgement(square: float) -> None:
    """Scaled by it, a mean product is infinite; the eigenvalues of such a matrix end in an error of numpy's."""
    told = np.diag([1.0, square, square, square])
    told[1, 2] = told[2, 1] = told[2, 3] = told[3, 2] = 1.0
    with pytest.raises(ProtocolError, match="cannot be means"):
        Statistics.from_arrays(Statistics(told, np.zeros(4)).arrays(), features=4)


def test_a_target_cannot_vary_where_no_feature_does() -> None:
    """Two features that are 1 everywhere have the same mean product with any target."""
    Statistics.from_arrays(Statistics(np.ones((2, 2)), np.array([0.5, 0.5])).arrays(), features=2)
    with pytest.raises(ProtocolError, match=r"outside of \[0, 1\]"):
        Statistics.from_arrays(Statistics(np.ones((2, 2)), np.array([0.5, 0.4])).arrays(), features=2)
