from dataclasses import replace
from pathlib import Path

import pytest

from agi_core.errors import PolicyError, ProtocolError
from agi_core.host import atomic
from agi_core.study import WholeStudy
from client.border import consent
from client.site.policy import Policy
from tests.support.requests_by_hand import small_task, training_request

REQUEST = training_request(*small_task())


def test_a_study_is_answered_once_somebody_has_agreed(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(PolicyError, match=r"nobody has agreed to study run yet; .* --studies"):
            consent.check_agreed(tmp_path, REQUEST)
    (study,) = consent.studies(tmp_path)
    consent.agree(tmp_path, study)
    consent.check_agreed(tmp_path, replace(REQUEST, round=7, nonce="other"))


@pytest.mark.parametrize("change", [{"run_id": "another"}, {"task": small_task("rounds=9")[0]}])
def test_another_run_and_other_settings_are_asked_about_again(tmp_path: Path, change: dict[str, str]) -> None:
    with pytest.raises(PolicyError):
        consent.check_agreed(tmp_path, REQUEST)
    consent.agree(tmp_path, *consent.studies(tmp_path))
    with pytest.raises(PolicyError):
        consent.check_agreed(tmp_path, replace(REQUEST, **change))  # type: ignore[arg-type]
    assert sorted(study.agreed for study in consent.studies(tmp_path)) == [False, True]


def test_a_study_of_another_release_blocks_no_other(tmp_path: Path) -> None:
    """Its settings may have other names; nor does a file that a crash of the machine has emptied."""
    old = consent.AskedStudy("old", small_task()[0].replace("local_steps", "steps_of_old"))
    atomic.write_json(tmp_path / "studies" / "a.json", old.to_json())
    (tmp_path / "studies" / "b.json").write_text("")
    with pytest.raises(PolicyError):
        consent.check_agreed(tmp_path, REQUEST)
    (study,) = consent.studies(tmp_path)
    assert study.run == REQUEST.run_id
    assert consent.unreadable(tmp_path) == [tmp_path / "studies" / name for name in ("a.json", "b.json")]


def test_a_study_that_is_forgotten_is_noted_when_it_is_asked_about_again(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(PolicyError):
            consent.check_agreed(tmp_path, REQUEST)
        (study,) = consent.studies(tmp_path)
        consent.forget(tmp_path, study)
        assert consent.studies(tmp_path) == []


def test_nobody_outside_can_fill_the_disk_with_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "MOST", 3)
    for number in range(5):
        with pytest.raises(PolicyError):
            consent.check_agreed(tmp_path, replace(REQUEST, run_id=f"run {number}"))
    assert len(consent.studies(tmp_path)) == 3


def test_a_person_reads_study_scenario_privacy_and_what_leaves() -> None:
    open_study = consent.AskedStudy("first\x1b[2J", small_task("scenario=T1,T2:PD", "rounds=4")[0])
    text = "\n".join(consent.described(open_study, Policy(metrics=["psnr_db"]), private=False))
    assert text.isprintable() or "\x1b" not in text
    assert "study first[2J" in text
    assert "PD from T1, T2" in text
    assert "4 rounds of" in text
    assert "none: weights may tell something of single subjects" in text
    assert "of means over subjects psnr_db" in text
    assert "means of products" not in text
    prior = consent.AskedStudy("first", small_task("model.prior=cubic")[0])
    assert "means of products" in "\n".join(consent.described(prior, Policy(), private=False))
    assert "means of products" not in "\n".join(consent.described(prior, Policy(), private=True))
    assert "to compare with" not in text
    assert "how often errors on your validation subjects" not in text  # the policy holds them back
    assert "how often errors on your validation" in "\n".join(consent.described(prior, Policy(), private=False))
    assert "how often errors on your validation" not in "\n".join(consent.described(prior, Policy(), private=True))
    of_sources = "what sources of training subjects are like"
    assert of_sources not in text
    assert of_sources in "\n".join(consent.described(prior, Policy(metrics=["range_subjects"]), private=False))
    assert of_sources not in "\n".join(consent.described(prior, Policy(), private=True))
    alone = Policy(alone=True)
    assert "a model of this site alone that stays here" in "\n".join(consent.described(prior, alone, private=False))
    assert "a model of this site alone" not in "\n".join(consent.described(prior, alone, private=True))
    own, shares = consent.AskedStudy("first", small_task("personal=head")[0]), Policy(share_last_layer=True)
    for leaves in (
        "your own last layer, solved from the site's own subjects without noise",
        "for a last layer for all, means of products of features",
    ):
        assert leaves in "\n".join(consent.described(own, shares, private=False))
        for study, policy, private in ((own, Policy(), False), (own, shares, True), (prior, shares, False)):
            assert leaves not in "\n".join(consent.described(study, policy, private=private))
    private = consent.AskedStudy("first", small_task("privacy.epsilon=8")[0])
    assert "at most epsilon 8 at delta 1e-05" in "\n".join(consent.described(private, Policy(), private=True))


def test_who_agrees_to_a_study_over_a_vocabulary_agrees_to_its_cells_and_to_no_other(tmp_path: Path) -> None:
    whole = WholeStudy("first-0123", small_task("scenario=T1,T2,PD:any", "reference=null")[0])
    cells = [
        replace(REQUEST, run_id=f"first-0123/{cell}", task=small_task(f"scenario={cell}", "reference=null")[0])
        for cell in ("T1:PD", "T1,PD:T2")
    ]
    asked = [replace(cell, study=whole.text) for cell in cells]
    for request in asked:
        with pytest.raises(PolicyError, match="nobody has agreed to study first-0123 yet"):
            consent.check_agreed(tmp_path, request)
    (study,) = consent.studies(tmp_path)
    assert "any of T1, T2, PD from any others" in "\n".join(consent.described(study, Policy(), private=False))
    consent.agree(tmp_path, study)
    for request in asked:
        consent.check_agreed(tmp_path, request)
    for run in ("first-4567", asked[1].run_id):  # the same cell again, with a budget of its own
        with pytest.raises(ProtocolError, match="in the name of another run"):
            consent.check_agreed(tmp_path, replace(asked[0], run_id=run))
    other = WholeStudy("second-4567", whole.task)
    of_other = replace(cells[0], run_id="second-4567/T1:PD", study=other.text)
    for request in (cells[0], of_other):  # alone, and of another run
        with pytest.raises(PolicyError, match="nobody has agreed"):
            consent.check_agreed(tmp_path, request)
    outside = replace(asked[0], task=small_task("scenario=T1,T2:FLAIR", "reference=null")[0])
    with pytest.raises(ProtocolError, match="none of the study"):
        consent.check_agreed(tmp_path, outside)
