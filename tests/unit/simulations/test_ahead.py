"""Work that begins before anybody waits for it."""

import os
from functools import partial
from pathlib import Path

import pytest

from agi_core.errors import DataError, RunError
from agi_core.host.processes import has_ended
from simulations.ahead import Ahead
from simulations.workers import LOWEST_PRIORITY
from tests.unit.simulations.test_workers import appears, write_pid_and_wait


def upper(name: str) -> str:
    return name.upper()


def priority(folder: Path, name: str) -> int:
    """After a sign that it has begun, and another that it may end."""
    (folder / name).touch()
    assert appears(folder / "go")
    return os.nice(0)


def refuse(name: str) -> None:
    raise DataError(f"no scans at {name}")


def write_pid(folder: Path, name: str) -> None:
    write_pid_and_wait(folder / name)


def test_results_are_in_the_order_of_the_names_however_many_begin_early() -> None:
    for early in (0, 1, 2):
        with Ahead(upper, ["b", "a", "c"], processes=2, early=early) as ahead:
            assert [*ahead.results().items()] == [("b", "B"), ("a", "A"), ("c", "C")]


def test_as_many_as_are_early_begin_at_once_with_the_lowest_priority(tmp_path: Path) -> None:
    with Ahead(partial(priority, tmp_path), ["a", "b", "c"], processes=2, early=1) as ahead:
        assert appears(tmp_path / "a")
        assert not (tmp_path / "b").exists()
        (tmp_path / "go").touch()
        found = ahead.results()
    assert found["a"] == LOWEST_PRIORITY
    assert {*found.values()} <= {LOWEST_PRIORITY, os.nice(0)}


def test_an_error_is_raised_where_the_results_are_asked_for() -> None:
    with Ahead(refuse, ["a", "b"], processes=1, early=1) as ahead, pytest.raises(RunError, match="no scans at a"):
        ahead.results()


def test_what_is_at_work_ends_with_the_block(tmp_path: Path) -> None:
    with Ahead(partial(write_pid, tmp_path), ["a", "b"], processes=2, early=1):
        assert appears(tmp_path / "a")
        pid = int((tmp_path / "a").read_text())
        assert not has_ended(pid)
    assert has_ended(pid)
    assert not (tmp_path / "b").exists()
