"""Processes that work side by side, and end when they should."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agi_core.config.schema import RunConfig
from agi_core.errors import DataError, RunError
from agi_core.host.processes import has_ended
from agi_core.run import progress
from agi_core.run.progress import Step
from simulations import workers as module
from simulations.workers import Workers, idle_processes_for, processes_for

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2) as two:
        yield two


def meet(mine: Path, other: Path) -> bool:
    """Whether the other one comes while this one is here."""
    mine.touch()
    return appears(other)


def appears(path: Path) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def count_to(number: int) -> int:
    for step in range(1, number + 1):
        progress.report(Step("count", "A", step, number))
    return os.getpid()


def refuse(sentence: str) -> None:
    raise DataError(sentence)


def write_pid_and_wait(path: Path) -> None:
    whole = path.with_suffix(".part")
    whole.write_text(str(os.getpid()))
    whole.replace(path)
    appears(path.with_name("never"))


def test_two_sites_are_at_work_at_once(workers: Workers, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    jobs = [workers.submit(meet, a, b, at=0), workers.submit(meet, b, a, at=1)]
    assert [workers.result(job) for job in jobs] == [True, True]


def test_one_site_has_one_process_and_results_come_in_any_order(workers: Workers) -> None:
    jobs = [workers.submit(count_to, 1, at=site) for site in (3, 4, 3, 4)]
    pids = [workers.result(job) for job in reversed(jobs)]
    assert pids[0] == pids[2] != pids[1] == pids[3]
    assert os.getpid() not in pids


def test_progress_is_reported_here(workers: Workers) -> None:
    heard: list[object] = []
    with progress.listening(heard.append):
        workers.result(workers.submit(count_to, 3, at=0))
    assert heard == [Step("count", "A", step, 3) for step in (1, 2, 3)]


def test_what_does_not_fit_into_a_pipe_arrives_whole(workers: Workers) -> None:
    blocks = [bytes([number]) * 3_000_000 for number in range(4)]
    jobs = [workers.submit(bytes, block, at=0) for block in blocks]
    assert [workers.result(job) for job in jobs] == blocks


def test_a_users_mistake_is_a_sentence_and_any_other_error_has_its_traceback(workers: Workers) -> None:
    with pytest.raises(RunError, match=r"^no scans in X$"):
        workers.result(workers.submit(refuse, "no scans in X", at=0))
    with pytest.raises(RuntimeError, match=r"int\(\) with base 10: 'x'"):
        workers.result(workers.submit(int, "x", at=0))
    assert workers.result(workers.submit(int, "1", at=0)) == 1


def test_a_killed_process_is_named() -> None:
    with Workers(1) as one, pytest.raises(RunError, match="was killed, often because memory is short"):
        one.result(one.submit(os.kill, one.result(one.submit(os.getpid, at=0)), signal.SIGKILL, at=0))


def test_they_end_with_the_block_and_with_a_killed_parent(tmp_path: Path) -> None:
    with Workers(1) as one:
        pid = one.result(one.submit(os.getpid, at=0))
        assert not has_ended(pid)
    assert has_ended(pid)

    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom simulations.workers import Workers\n"
        "from tests.unit.simulations.test_workers import write_pid_and_wait\n"
        "if __name__ == '__main__':\n"
        "    with Workers(1) as one:\n"
        "        one.result(one.submit(write_pid_and_wait, Path(sys.argv[1]), at=0))\n"
    )
    written, root = tmp_path / "pid", str(Path(module.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, str(script), str(written)], env={**os.environ, "PYTHONPATH": root}
    ) as parent:
        try:
            assert appears(written)
        finally:
            parent.kill()
    deadline = time.monotonic() + PATIENCE_S
    while not has_ended(int(written.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert has_ended(int(written.read_text()))


def test_as_many_processes_as_sites_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 4)
    config = dataclasses.replace(RunConfig(), device="cpu")
    assert processes_for(config, sites=3) == 3
    assert processes_for(config, sites=9) == 4
    assert processes_for(dataclasses.replace(config, threads=2), sites=9) == 2
    assert processes_for(dataclasses.replace(config, threads=8), sites=9) == 1
    assert processes_for(dataclasses.replace(config, engine="in-process"), sites=9) == 1


@pytest.mark.parametrize(("cores", "threads", "sites", "idle"), [
    (2, 1, 5, 1),  # two, two, one
    (2, 1, 4, 0),
    (16, 1, 5, 5),  # eleven cores wait, and there are no more than five sites
    (8, 1, 6, 2),
    (8, 2, 5, 3),
    (1, 1, 5, 0),  # one process is this one
])  # fmt: skip
def test_cores_that_wait_for_the_last_sites(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int, sites: int, idle: int
) -> None:
    monkeypatch.setattr(module, "cores", lambda: cores)
    config = dataclasses.replace(RunConfig(), device="cpu", threads=threads)
    assert idle_processes_for(config, sites=sites) == idle
    assert idle_processes_for(dataclasses.replace(config, engine="in-process"), sites=sites) == 0
