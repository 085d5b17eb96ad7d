"""One real child process; how it fares under a supervisor is in test_supervisor.py."""

import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.process import child as module
from client.process.child import Child, Program, pause_s

DEADLINE_S = 30.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Child]]:
    """Start a child that runs this source; it is killed after the test."""
    children = []

    def start(source: str) -> Child:
        program = Program("child", (sys.executable, "-u", "-c", source))
        children.append(Child(program, log_dir=tmp_path, environment=os.environ))
        children[-1].tend()
        return children[-1]

    yield start
    for child in children:
        child.kill()


def wait_for(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not happens():
        assert time.monotonic() < deadline, "the deadline passed"
        time.sleep(0.02)


def test_it_ends_with_its_exit_code_and_waits_before_it_starts_again(start: Callable[[str], Child]) -> None:
    child = start("import sys; print('gone'); sys.exit(3)")
    running = child.state()
    assert (running.name, running.exit_code, running.restart_in_s) == ("child", None, 0.0)
    assert running.pid is not None
    wait_for(lambda: child.has_ended)
    child.tend()
    ended = child.state()
    assert (ended.pid, ended.exit_code) == (None, 3)
    assert 0 < ended.restart_in_s <= module.FIRST_PAUSE_S
    assert running.new_log + ended.new_log == "gone\n"
    child.tend()  # too early
    assert child.state().pid is None


def test_a_long_log_is_moved_and_goes_on(
    start: Callable[[str], Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOG_BYTES", 2000)
    path, moved_path = tmp_path / "child.log", tmp_path / "child.log.1"
    path.write_text("of an earlier life\n")
    child = start("import time\nfor n in range(100000): print(f'line {n}'); time.sleep(0.001)")
    heard = []

    def moved() -> bool:
        heard.append(child.state().new_log)
        return moved_path.is_file() and "line " in path.read_text()

    wait_for(moved)
    assert not child.has_ended
    assert moved_path.read_text().startswith("of an earlier life\nline 0\n")
    assert "".join(heard).startswith("line 0\n")


def test_a_long_log_ends_nothing_where_it_cannot_be_moved(
    start: Callable[[str], Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the full disk."""
    monkeypatch.setattr(module, "LOG_BYTES", 2000)
    child = start("import time\nfor n in range(100000): print(f'line {n}'); time.sleep(0.001)")
    path, heard = tmp_path / "child.log", []

    def hear() -> None:
        heard.append(child.state().new_log)

    wait_for(lambda: path.stat().st_size > 2000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        hear()
        hear()
        assert [file.name for file in tmp_path.iterdir()] == ["child.log"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    hear()
    assert (tmp_path / "child.log.1").stat().st_size > 2000
    lines = "".join(heard).splitlines()[:-1]  # the last may be half there
    assert lines == [f"line {n}" for n in range(len(lines))]


@given(failures=st.integers(1, 10_000), seed=st.integers(0, 1000))
def test_pauses_double_up_to_the_cap_and_are_jittered(failures: int, seed: int) -> None:
    longest = min(10.0, 2.0 ** min(failures - 1, 10))
    assert longest / 2 <= pause_s(failures, random.Random(seed)) <= longest


def test_the_pauses_outlast_the_minute_in_which_a_node_is_refused() -> None:
    shortest = sum(pause_s(n, random.Random(1)) for n in range(1, 20))
    assert shortest > 60  # and it never gives up
