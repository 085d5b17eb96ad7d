"""No difference of two answers is of fewer subjects than the policy's minimum."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agi_core.errors import DataError, PolicyError
from client.site.told import told_subjects

FIRST = [f"s{n}" for n in range(10)]


def told(folder: Path, subjects: Sequence[str], *, scenario: str = "T1:T2", minimum: int = 3) -> set[str]:
    return {*told_subjects(folder, scenario, subjects, minimum=minimum)}


def test_the_set_stays_until_enough_have_come(tmp_path: Path) -> None:
    assert told(tmp_path, FIRST) == {*FIRST}
    assert told(tmp_path, [*FIRST, "new1", "new2"]) == {*FIRST}
    more = [*FIRST, "new1", "new2", "new3"]
    assert told(tmp_path, more) == {*more}
    assert told(tmp_path, FIRST[:5], scenario="T2:T1") == {*FIRST[:5]}  # a scenario has a set of its own
    assert told(tmp_path, more) == {*more}


def test_who_is_withdrawn_is_not_told_of_again(tmp_path: Path) -> None:
    told(tmp_path, FIRST)
    with pytest.raises(PolicyError, match="subjects that statistics were told of are gone"):
        told(tmp_path, FIRST[1:])
    assert told(tmp_path, [*FIRST[1:], "new1", "new2"]) == {*FIRST[1:], "new1", "new2"}


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), min_size=2, max_size=6), st.integers(1, 4))
def test_two_answers_are_equal_or_differ_by_the_minimum(
    tmp_path_factory: pytest.TempPathFactory, days: list[set[str]], minimum: int
) -> None:
    folder, answers = tmp_path_factory.mktemp("site"), []
    for subjects in days:
        try:
            answers.append(told(folder, sorted(subjects), minimum=minimum))
        except PolicyError:
            continue
        assert answers[-1] <= subjects
    for one, other in combinations(answers, 2):
        assert one == other or len(one ^ other) >= minimum


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "told.json").write_text("[3")
    with pytest.raises(DataError, match=r"told\.json cannot be read"):
        told(tmp_path, FIRST)
