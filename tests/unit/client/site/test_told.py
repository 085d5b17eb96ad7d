"""No combination of answers is of fewer subjects than the policy's minimum."""

from collections.abc import Sequence
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agi_core.data.scans import Session, Subject
from agi_core.errors import DataError, PolicyError
from client.site.split import ever_given, lasting_split
from client.site.told import Few, Part, told_few, told_slices, told_subjects

FIRST = [f"s{n}" for n in range(10)]
DAYS = st.lists(
    st.tuples(st.sampled_from(["train", "validation", "test", "all"]), st.sets(st.sampled_from("abcdef"), min_size=1)),
    min_size=2,
    max_size=6,
)


def told(
    folder: Path, subjects: Sequence[str], *, part: Part = "train", minimum: int = 3, visits: tuple[str, ...] = ("",)
) -> set[str]:
    asked = [Subject(name, "Guys", tuple(Session(visit, {}) for visit in visits)) for name in subjects]
    return {
        subject.id
        for subject in told_subjects(
            folder, part, asked, known_as={subject.id: subject.id for subject in asked}, minimum=minimum
        )
    }


def test_the_set_stays_until_enough_have_come(tmp_path: Path) -> None:
    assert told(tmp_path, FIRST) == {*FIRST}
    assert told(tmp_path, [*FIRST, "new1", "new2"]) == {*FIRST}
    more = [*FIRST, "new1", "new2", "new3"]
    assert told(tmp_path, more) == {*more}
    assert told(tmp_path, FIRST[:5], part="test") == {*FIRST[:5]}  # a part has a set of its own
    assert told(tmp_path, more) == {*more}


def test_who_is_withdrawn_is_not_told_of_again(tmp_path: Path) -> None:
    told(tmp_path, FIRST)
    with pytest.raises(PolicyError, match="would tell of fewer than 3"):
        told(tmp_path, FIRST[1:])
    assert told(tmp_path, [*FIRST[1:], "new1", "new2"]) == {*FIRST[1:], "new1", "new2"}


def test_the_difference_of_more_than_two_sets_is_of_enough_too(tmp_path: Path) -> None:
    """Test subjects, validation subjects and those who remain: all but one of all would tell of that one."""
    told(tmp_path, FIRST[:4], part="test")
    told(tmp_path, FIRST[4:8], part="validation")
    with pytest.raises(PolicyError, match="these all subjects"):
        told(tmp_path, FIRST[:9], part="all")
    small = tmp_path / "small"
    assert told(small, FIRST[:2], part="test", minimum=10) == {*FIRST[:2]}  # the whole part of a small site
    with pytest.raises(PolicyError):
        told(small, FIRST[:1], part="test", minimum=10)  # of a scenario that one of the two has
    assert told(small, FIRST[:3], part="test", minimum=10) == {*FIRST[:2]}


def test_the_first_set_of_a_large_site_is_not_small(tmp_path: Path) -> None:
    """The attack: after a round of a usual scenario, a test of one that a single test subject has."""
    lasting_split(tmp_path, {f"s{n}": [str(n)] for n in range(15)})  # 3 test, 1 validates
    split = ever_given(tmp_path)
    with pytest.raises(PolicyError, match="of the 3 test subjects of this site, 1 are asked about"):
        told(tmp_path, split.test[:1], part="test")
    with pytest.raises(PolicyError, match="of the 15 all subjects"):
        told(tmp_path, split.test[:2], part="all")
    assert told(tmp_path, split.validation, part="validation") == {*split.validation}  # there are no more
    assert told(tmp_path, split.test, part="test") == {*split.test}


def test_a_subject_with_one_more_visit_is_another(tmp_path: Path) -> None:
    told(tmp_path, FIRST[:2], visits=("1", "2"))
    with pytest.raises(PolicyError):
        told(tmp_path, FIRST[:2], visits=("1",))  # of a scenario that the second visits lack a modality of
    assert told(tmp_path, FIRST[:4], visits=("1",)) == {*FIRST[:4]}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DAYS, st.integers(1, 4))
def test_no_combination_of_answers_is_of_fewer_than_the_minimum(
    tmp_path_factory: pytest.TempPathFactory, days: list[tuple[Part, set[str]]], minimum: int
) -> None:
    """Over the single subjects: who can be told of by sums of answers, but for answers that are as small themselves."""
    folder, answers = tmp_path_factory.mktemp("site"), list[tuple[Part, set[str]]]()
    for part, subjects in days:
        try:
            answers.append((part, told(folder, sorted(subjects), part=part, minimum=minimum)))
        except PolicyError:
            continue
        assert answers[-1][1] <= subjects
    for (one_part, one), (other_part, other) in combinations(answers, 2):
        assert one_part != other_part or one == other or len(one ^ other) >= minimum
    member = np.array([[name in answer for name in "abcdef"] for _, answer in answers], dtype=float)
    for few in chain.from_iterable(combinations(range(6), count) for count in range(1, minimum)):
        outside = np.delete(member, few, axis=1)
        themselves = member[~outside.any(axis=1)]
        shown = np.linalg.matrix_rank(member) - np.linalg.matrix_rank(outside)
        assert shown == (np.linalg.matrix_rank(themselves) if len(themselves) else 0)


@pytest.mark.parametrize("part", ["range", "poses"])
def test_few_stay_the_same_as_long_as_they_are_there(tmp_path: Path, part: Few) -> None:
    """Of the first few of each set that may be told of, two could differ by one subject."""

    def few(subjects: Sequence[str], *, minimum: int = 3) -> list[str]:
        asked = [Subject(name, "Guys", (Session("", {}),)) for name in subjects]
        known_as = {name: name for name in subjects}
        told = told_few(tmp_path, part, asked, most=4, known_as=known_as, minimum=minimum)
        return [subject.id for subject in told]

    assert told(tmp_path, FIRST[:5]) == {*FIRST[:5]}
    assert few(FIRST[:5]) == FIRST[:4]  # no other figure is of the same measures
    assert few(["new1", "new2", "new3", *FIRST]) == FIRST[:4]
    with pytest.raises(PolicyError, match=f"these {part} subjects"):
        few(FIRST[1:])
    assert told(tmp_path, FIRST[:8]) == {*FIRST[:8]}
    assert few(FIRST[3:]) == FIRST[3:7]  # three went, three came
    assert few(FIRST, minimum=1) == FIRST[:4]


def test_the_number_of_slices_stays(tmp_path: Path) -> None:
    assert [told_slices(tmp_path, asked, minimum=3) for asked in (64, 65, 1)] == [64, 64, 64]
    told(tmp_path, FIRST)
    assert told_slices(tmp_path, 65, minimum=3) == 64


@pytest.mark.parametrize("content", ["[3", "[]", '{"sets": 3}', '{"T1:T2": [["a"]]}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "told.json").write_text(content)
    with pytest.raises(DataError, match=r"told\.json is damaged"):
        told(tmp_path, FIRST)
