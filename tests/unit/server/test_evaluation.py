import pytest

from agi_core.metric_table import METRIC_NAMES, VALIDATION_METRIC_NAMES
from agi_core.protocol import Reply
from agi_core.run.scores import Best, SiteScore, over_subjects
from server.evaluation import site_scores, suppressed_sites, validation_scores, worse_at


def reply_with(metrics: dict[str, float], *, subjects: int = 2, suppressed: str = "") -> Reply:
    return Reply(
        run_id="run",
        round=1,
        nonce="n",
        num_examples=subjects,
        metrics=metrics,
        weights=None,
        suppressed=suppressed,
    )


def reply(psnr_db: float | None, *, subjects: int = 2, suppressed: str = "", prefix: str = "") -> Reply:
    """The same figure for every metric, or none."""
    metrics = {} if psnr_db is None else {f"{prefix}{name}": psnr_db for name in METRIC_NAMES}
    if prefix and metrics:
        metrics["validation_subjects"] = subjects
    return reply_with(metrics, subjects=subjects, suppressed=suppressed)


def test_a_site_without_subjects_has_no_score() -> None:
    scores = site_scores({"B": reply(20.0, subjects=3), "A": reply(24.0, subjects=1), "C": reply(9.0, subjects=0)})
    assert [(site, score.psnr_db, score.subjects) for site, score in scores.items()] == [("A", 24.0, 1), ("B", 20.0, 3)]


@pytest.mark.parametrize("told", [(), ("A",)])
def test_figures_that_a_site_holds_back_are_absent_not_zero(told: tuple[str, ...]) -> None:
    names = ",".join(METRIC_NAMES)
    replies = {s: reply(20.0) if s in told else reply(None, suppressed=names) for s in ("A", "B")}
    assert list(site_scores(replies)) == [*told]
    assert over_subjects(site_scores(replies)).get("psnr_db") == (20.0 if told else None)
    assert suppressed_sites(replies, METRIC_NAMES) == [site for site in ("A", "B") if site not in told]


def test_a_site_may_tell_its_psnr_and_no_more() -> None:
    replies = {"A": reply(20.0), "B": reply_with({"psnr_db": 22.0}, suppressed="ssim,mae")}
    assert site_scores(replies)["B"] == SiteScore({"psnr_db": 22.0}, 2)
    assert over_subjects(site_scores(replies)) == {"psnr_db": 21.0}


def test_without_a_psnr_there_is_no_score() -> None:
    half = reply_with({"ssim": 0.5}, suppressed="psnr_db,mae")
    assert site_scores({"A": half}) == {}
    half = reply_with({"validation_ssim": 0.5, "validation_subjects": 2}, suppressed="validation_psnr_db")
    assert validation_scores({"A": half}) == {}
    assert suppressed_sites({"A": half}, VALIDATION_METRIC_NAMES) == ["A"]
    assert suppressed_sites({"A": half}, METRIC_NAMES) == []


def test_validation_travels_with_training() -> None:
    scores = validation_scores({"A": reply(20.0, prefix="validation_"), "B": reply(None)})
    assert scores == {"A": SiteScore(dict.fromkeys(METRIC_NAMES, 20.0), 2)}


@pytest.mark.parametrize(
    ("now", "worse"),
    [
        ({"A": 17.5, "B": 18.9, "C": 30.0}, []),  # less than 3 dB below
        ({"A": 16.9, "B": 20.0, "C": 20.0}, []),  # one of three
        ({"A": 16.9, "B": 5.0, "C": 30.0}, ["A", "B"]),
        ({"A": 16.9, "B": 25.0}, []),  # half is no majority
        ({"A": 1.0}, []),  # where the others are silent, one is no majority either
        ({"A": 1.0, "D": 1.0, "E": 1.0}, []),
        ({"D": 1.0, "E": 1.0}, []),  # who said nothing of the best model cannot compare
        ({}, []),
    ],
)
def test_a_majority_of_all_must_report_a_model_much_worse(now: dict[str, float], worse: list[str]) -> None:
    best = Best(round=1, psnr_db=20.0, sites=dict.fromkeys("ABC", 20.0))
    assert worse_at({site: SiteScore({"psnr_db": value}, 1) for site, value in now.items()}, best, of=3) == worse
