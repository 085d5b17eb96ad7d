from agi_core.report.participation import Part, participation
from agi_core.run.events import (
    RoundFinished,
    RunStarted,
    SiteFailed,
    SiteMissing,
    SiteQuarantined,
    SiteSatOut,
    UpdateRefused,
)

WHY = {"action": "train", "reason": "why"}


def finished(round: int, *sites: str) -> RoundFinished:
    return RoundFinished(round=round, sites=sites, train_loss={}, seconds={})


def parts(*happened: object, site: str = "A") -> list[Part]:
    return [*participation(happened, [site])[site].values()]  # type: ignore[arg-type]


def test_each_reason_for_not_training() -> None:
    assert parts(finished(1, "A")) == [Part.TRAINED]
    assert parts(SiteMissing(site="A", round=1, **WHY), finished(1, "B")) == [Part.MISSING]
    assert parts(SiteFailed(site="A", round=1, **WHY), finished(1, "B")) == [Part.FAILED]
    assert parts(UpdateRefused(site="A", round=1, reason="why"), finished(1, "B")) == [Part.REFUSED]
    assert parts(finished(1)) == [Part.MISSING]


def test_sitting_out_lasts_until_the_site_trains_again() -> None:
    out = SiteSatOut(site="A", round=1, **WHY)
    assert parts(out, finished(1), finished(2), finished(3, "A"), finished(4)) == [
        *(Part.SAT_OUT, Part.SAT_OUT, Part.TRAINED, Part.MISSING)
    ]


def test_quarantine_follows_the_refusal() -> None:
    refused = UpdateRefused(site="A", round=1, reason="why", strikes=3)
    assert parts(refused, SiteQuarantined(site="A", round=1), finished(1), finished(2)) == [
        *(Part.REFUSED, Part.QUARANTINED)
    ]


def test_a_site_that_was_added_is_not_missing_in_the_rounds_before() -> None:
    began = RunStarted(run_id="r", sites=["B"], unseen_sites=[])
    happened = began, finished(1, "B"), finished(2, "A", "B"), finished(3, "B")
    assert parts(*happened) == [Part.NOT_YET, Part.TRAINED, Part.MISSING]
    waited_for = SiteMissing(site="A", round=2, **WHY)
    assert parts(began, finished(1, "B"), waited_for, finished(2, "B"), finished(3, "B")) == [
        *(Part.NOT_YET, Part.MISSING, Part.MISSING)
    ]
    assert parts(*happened, site="B") == [Part.TRAINED] * 3


def test_a_failed_test_is_no_failed_training() -> None:
    happened = SiteMissing(site="A", round=1, action="evaluate", reason="why"), finished(1, "A")
    assert parts(*happened) == [Part.TRAINED]


def test_after_a_resume_a_round_counts_as_it_went_last() -> None:
    assert parts(SiteMissing(site="A", round=1, **WHY), finished(1), finished(1, "A")) == [Part.TRAINED]


def test_a_log_of_an_early_release_names_the_sites_by_their_losses() -> None:
    assert parts(RoundFinished(round=1, train_loss={"A": 0.5}, seconds={})) == [Part.TRAINED]
