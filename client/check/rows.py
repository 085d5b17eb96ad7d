"""One row of the table that `--check` prints."""

from dataclasses import dataclass
from typing import Literal

PASSED: Literal["passed"] = "passed"
WARNING: Literal["warning"] = "warning"
FAILED: Literal["FAILED"] = "FAILED"
State = Literal["passed", "warning", "FAILED"]


@dataclass(frozen=True)
class Row:
    """What was checked, how it went, what was found, and how to mend it (empty where nothing is to be done)."""

    what: str
    state: State
    found: str
    fix: str = ""


def passed(what: str, found: str) -> Row:
    return Row(what, PASSED, found)


def warning(what: str, found: str, fix: str) -> Row:
    return Row(what, WARNING, found, fix)


def failed(what: str, found: str, fix: str) -> Row:
    return Row(what, FAILED, found, fix)
