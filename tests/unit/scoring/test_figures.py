import numpy as np
import pytest
from scipy import stats

from agi_core.metric_table import SEGMENTED_METRIC_NAMES, SEGMENTED_TARGETS
from agi_core.scoring.evaluation import share
from agi_core.scoring.figures import FIGURES, means, recovered_shares
from agi_core.segmentation.labels import TARGETS


def test_the_interval_is_over_subjects_and_not_over_visits() -> None:
    rows = [("a", 10.0), ("a", 20.0), ("b", 21.0), ("c", 24.0)]
    (name, mean), *others = means((subject, {"psnr_db_head": value}) for subject, value in rows).items()
    assert (name, others, mean.subjects) == ("psnr_db_head", [], 3)
    assert mean.mean == pytest.approx(20)
    expected = stats.t.interval(0.95, 2, loc=20, scale=stats.sem([15, 21, 24]))
    np.testing.assert_allclose([mean.low, mean.high], expected)


@pytest.mark.parametrize(
    ("name", "values", "end", "expected"),
    [("mae_head", (0.0, 0.1), "low", 0), ("coverage_head", (0.9, 1.0), "high", 1), ("ssim_head", (0.9, 1), "high", 1)],
)
def test_an_interval_ends_where_the_figure_does(
    name: str, values: tuple[float, float], end: str, expected: int
) -> None:
    mean = means((subject, {name: value}) for subject, value in zip("ab", values, strict=True))[name]
    assert getattr(mean, end) == expected


def test_a_figure_that_some_lack_is_the_mean_of_the_others() -> None:
    result = means([("a", {"mae_head": 0.5, "mae_tumour": 0.25}), ("b", {"mae_head": 1.0})])
    assert result["mae_tumour"] == (0.25, None, None, 1)
    assert result["mae_head"].subjects == 2
    assert [*result] == [name for name in FIGURES if name in result]
    assert means([]) == {}


def test_a_recovered_share_by_hand() -> None:
    """Means 0.9, 0.5 and 0.7 of ceiling, floor and synthetic: half of what is lost."""
    values = {"ceiling": (0.8, 1.0), "floor": (0.5, 0.5), "synthetic": (0.65, 0.75), "regression": (0.6, 0.6)}
    rows = [(subject, {f"dice_WT_{row}": its[n] for row, its in values.items()}) for n, subject in enumerate("ab")]
    shares = recovered_shares(rows)
    assert shares["dice_WT_regression"].mean == pytest.approx(0.25)
    share = shares["dice_WT"]
    assert (share.mean, share.subjects) == (pytest.approx(0.5), 2)
    assert (share.low, share.high) == (pytest.approx(0.5), pytest.approx(0.5))  # it is a half for either


def test_no_share_where_the_scan_is_not_needed() -> None:
    assert recovered_shares([("a", {f"dice_WT_{row}": 0.5 for row in ("ceiling", "floor", "synthetic")})]) == {}


def test_a_share_without_interval_where_the_ceiling_is_hardly_above_the_floor() -> None:
    """In a quarter of the draws it is below."""
    rows = [
        (subject, {"dice_WT_ceiling": ceiling, "dice_WT_floor": 0.5, "dice_WT_synthetic": 0.6})
        for subject, ceiling in (("a", 0.4), ("b", 0.7))
    ]
    shares = recovered_shares(rows)["dice_WT"]
    assert (shares.low, shares.high, shares.subjects) == (None, None, 2)
    assert share(shares) == "200% (no interval: the ceiling is hardly above the floor), n = 2"


def test_a_run_tells_of_a_segmentation_what_evaluate_tells() -> None:
    assert [*SEGMENTED_METRIC_NAMES] == [name for name, figure in FIGURES.items() if figure.segmented]
    assert (*TARGETS,) == SEGMENTED_TARGETS
