import pytest

from agi_core.metric_table import FAULTY
from agi_core.run.sanity import sanity_flags
from agi_core.run.scores import Scores, SiteScore


def scores(*psnr_db: float, nmse: float = 0.1) -> Scores:
    return Scores.over({f"s{n}": SiteScore({"psnr_db": p, "nmse": nmse}, 1) for n, p in enumerate(psnr_db)}, {})


def flags(
    result: Scores,
    *,
    validation_db: tuple[float, ...] = (12.0, 20.0, 21.0),
    personal: Scores | None = None,
    **baselines: Scores,
) -> list[str]:
    return sanity_flags(result, baselines=baselines, validation_db=validation_db, personal=personal)


def test_a_sound_run_has_no_flag() -> None:
    assert flags(scores(21, 22, 23), voxel_regression=scores(20, 21, 22), local_only=scores(25, 25, 25)) == []
    assert flags(Scores({}), validation_db=()) == []  # a private run without test subjects


def test_black_predictions() -> None:
    (flag,) = flags(scores(9, nmse=1.0))
    assert flag == "s0: the predictions are as wrong as black ones (NMSE 1.00, a black volume has 1)"
    unseen = Scores.over({}, {"north": SiteScore({"psnr_db": 9.0, "nmse": 0.95}, 1)})
    assert [flag.partition(":")[0] for flag in flags(unseen)] == ["north"]


def test_constant_predictions_of_a_run_whose_volumes_nobody_sees() -> None:
    told = {"A": SiteScore({"psnr_db": 20.5, FAULTY: 0.4}, 5), "B": SiteScore({"psnr_db": 20.5, FAULTY: 0.0}, 5)}
    assert flags(Scores.over(told, {})) == [
        "A: 40% of the synthetic test volumes are constant or saturated within the head"
    ]


def test_a_model_below_a_regression() -> None:
    (flag,) = flags(scores(20), voxel_regression=scores(19), regression_pooled=scores(20.5))
    figures = "20.00 dB against 20.50 dB"
    assert flag == f"the model is below regression on aligned sources: {figures}; use that, or train longer"
    assert flags(scores(20), voxel_regression=Scores({})) == []
    assert flags(scores(20), voxel_regression=scores(20.001)) == []  # both would be told as 20.00 dB
    (flag,) = flags(scores(20, 24), regression_pooled=scores(20.5))  # which one site has not told
    assert figures in flag


def test_a_model_below_a_regression_where_nobody_trained() -> None:
    ours, theirs = (Scores.over({}, {"north": SiteScore({"psnr_db": p, "nmse": 0.1}, 1)}) for p in (20.0, 20.5))
    (flag,) = flags(ours, regression_pooled=theirs)
    assert flag.startswith("at unseen sites the model is below regression on aligned sources: 20.00 dB against 20.50")
    assert flags(theirs, regression_pooled=ours) == []


@pytest.mark.parametrize(
    ("validation_db", "flagged"),
    [((18.2, 18.2, 18.205), True), ((18.2, 18.2, 18.3), False), ((18.2, 18.2), False)],
)
def test_a_validation_that_never_moves(validation_db: tuple[float, ...], flagged: bool) -> None:
    expected = ["the validation never moved: 18.20 dB before training and after every round"] if flagged else []
    assert flags(scores(20), validation_db=validation_db) == expected


def test_a_site_whose_own_model_is_below_the_common_one() -> None:
    assert flags(scores(21.789, 24), personal=scores(21.461, 25)) == [
        "s0: its personal model is 0.33 dB below the global one (21.46 and 21.79 dB)"
    ]
    assert flags(scores(21.789, 24), personal=scores(21.786, 24)) == []  # told as the same
    assert flags(scores(24, 25), personal=Scores.over({"s9": SiteScore({"psnr_db": 9.0}, 1)}, {})) == []


def test_a_site_far_below_the_others() -> None:
    assert flags(scores(24, 25, 20.1)) == []
    assert flags(scores(24, 25, 19)) == ["s2 is far below the other sites: 19.00 dB, their median is 24.50 dB"]
    assert flags(scores(12)) == []
    (flag,) = flags(scores(24, 25, 19), personal=scores(24, 25, 26))
    assert flag.startswith("s2 is far below the other sites with the global model: 19.00 dB, ")
