import pytest

from agi_core.metric_table import METRIC_NAMES
from agi_core.run.scores import Scores, SiteScore, over_subjects


def score(psnr_db: float, *, subjects: int) -> SiteScore:
    return SiteScore(dict.fromkeys(METRIC_NAMES, psnr_db), subjects)


def test_the_mean_is_over_subjects() -> None:
    mean = over_subjects({"A": score(24.0, subjects=1), "B": score(20.0, subjects=3)})
    assert mean == pytest.approx(dict.fromkeys(METRIC_NAMES, 21.0))
    assert over_subjects({}) == {}


def test_a_metric_that_one_site_holds_back_has_no_mean() -> None:
    assert over_subjects({"A": score(20.0, subjects=1), "B": SiteScore({"psnr_db": 22.0}, 1)}) == {"psnr_db": 21.0}


def test_worst_site_and_unseen_sites() -> None:
    seen = {"A": score(24.0, subjects=1), "B": score(20.0, subjects=3)}
    scores = Scores.over(seen, {"C": score(18.0, subjects=2), "D": score(30.0, subjects=1)})
    assert (scores.final["psnr_db"], scores.worst_site, scores.subjects) == (pytest.approx(21.0), "B", 4)
    assert scores.unseen_psnr_db == pytest.approx(22.0)


def test_nobody_to_test_on() -> None:
    scores = Scores.over({}, {})
    assert (scores.final, scores.worst_site, scores.subjects, scores.unseen_psnr_db) == ({}, None, 0, None)


def test_scores_in_json() -> None:
    a, b = SiteScore({"psnr_db": 20.0}, 2), SiteScore({"psnr_db": 18.0, "ssim": 0.5}, 1)
    rows = {"A": {"psnr_db": 20.0, "subjects": 2}}, {"B": {"psnr_db": 18.0, "ssim": 0.5, "subjects": 1}}
    values = {"final": {"psnr_db": 20.0}, "sites": rows[0], "unseen_sites": rows[1]}
    assert Scores.over({"A": a}, {"B": b}).to_json() == values
    assert Scores.from_json(values) == Scores.over({"A": a}, {"B": b})
    local = Scores.over({"A": a}, {"B": b}, {"A": {"B": b}})
    assert local.to_json() == {**values, "unseen_by_model": {"A": rows[1]}}
    assert Scores.from_json(local.to_json()) == local
    assert Scores.from_json({"final": {}}) == Scores({})
