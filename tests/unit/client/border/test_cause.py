import pytest

from agi_core.errors import (
    AgiError,
    BudgetError,
    ConfigError,
    DataError,
    DeadlineError,
    MismatchError,
    NoneHeldError,
    NotHeldError,
    PolicyError,
)
from client.border.cause import cause


@pytest.mark.parametrize("kind", [PolicyError, NotHeldError, BudgetError, DeadlineError])
def test_rules_and_times_are_told_in_full(kind: type[AgiError]) -> None:
    assert cause(kind("rounds=900 is above 500")) == "rounds=900 is above 500"


def test_both_versions_are_told() -> None:
    assert "theirs, this program ours" in cause(MismatchError("release", theirs="theirs", ours="ours"))


@pytest.mark.parametrize("kind", [AgiError, ConfigError, DataError, NoneHeldError])
def test_what_may_name_a_subject_stays_in_the_log(kind: type[AgiError]) -> None:
    assert cause(kind("/data/patient-0042.nii.gz is gone")) == f"{kind.public} In full: details.log."
