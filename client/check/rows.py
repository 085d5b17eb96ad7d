"""One row of the table that `--check` prints."""

from dataclasses import dataclass
from enum import StrEnum


class CheckState(StrEnum):
    """How a check went."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "FAILED"


@dataclass(frozen=True)
class CheckRow:
    """What was checked, how it went, what was found, and how to mend it (empty where nothing is to be done)."""

    what: str
    state: CheckState
    found: str
    fix: str = ""


def passed(what: str, found: str) -> CheckRow:
    return CheckRow(what, CheckState.PASSED, found)


def warning(what: str, found: str, *, fix: str) -> CheckRow:
    return CheckRow(what, CheckState.WARNING, found, fix)


def failed(what: str, found: str, *, fix: str) -> CheckRow:
    return CheckRow(what, CheckState.FAILED, found, fix)
