"""The worker process, real: a hung step, a killed process, a runner that vanishes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import Message

from agi_core.errors import AgiError, DataError, DeadlineError
from agi_core.run import progress
from client.process.worker import Worker, now_s
from tests.support.requests_by_hand import as_message, deployed_site, reason, small_task, trained, training_request

LONG = "training.local_steps=100000"
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, ixi_dir: Path) -> Iterator[Worker]:
    worker = Worker(deployed_site(tmp_path_factory.mktemp("site"), ixi_dir))
    yield worker
    worker.kill()


def request(*settings: str, round: int) -> Message:
    return as_message(training_request(*small_task(*settings), round=round))


def process() -> multiprocessing.process.BaseProcess:
    (child,) = [child for child in multiprocessing.active_children() if child.name == "worker"]
    return child


def pid() -> int:
    found = process().pid
    assert found is not None
    return found


def at_first_step(action: Callable[[], None]) -> Callable[[progress.News], None]:
    """A listener that acts once, when training has begun."""
    done = threading.Event()

    def listen(news: progress.News) -> None:
        if isinstance(news, progress.Step) and news.phase.startswith("round") and not done.is_set():
            done.set()
            action()

    return listen


def test_requests_are_answered_by_one_warm_process(worker: Worker) -> None:
    heard: list[progress.News] = []
    with progress.listening(heard.append):
        first = worker.ask(request(round=1), until_s=now_s() + PATIENCE_S)
    assert [news.step for news in heard if isinstance(news, progress.Step) and news.phase == "round 1/2"] == [1, 2]
    before = pid()
    second = worker.ask(request(round=2), until_s=now_s() + PATIENCE_S)
    assert trained(first) != trained(second)
    assert pid() == before


def test_a_step_that_hangs_is_abandoned_at_its_deadline(worker: Worker) -> None:
    worker.ask(request(round=1), until_s=now_s() + PATIENCE_S)
    hung = pid()
    until_s = now_s() + 3
    with (
        progress.listening(at_first_step(lambda: os.kill(hung, signal.SIGSTOP))),
        pytest.raises(DeadlineError),
    ):
        worker.ask(request(LONG, round=1), until_s=until_s)
    assert now_s() - until_s < 5
    assert not worker.ask(request(round=2), until_s=now_s() + PATIENCE_S).has_error()
    assert pid() != hung


def test_a_process_that_dies_is_replaced(worker: Worker) -> None:
    worker.ask(request(round=1), until_s=now_s() + PATIENCE_S)
    killed = pid()
    with (
        progress.listening(at_first_step(lambda: os.kill(killed, signal.SIGKILL))),
        pytest.raises(AgiError, match="code -9"),
    ):
        worker.ask(request(LONG, round=1), until_s=now_s() + PATIENCE_S)
    assert not worker.ask(request(round=2), until_s=now_s() + PATIENCE_S).has_error()


def test_a_process_that_died_idle_costs_nothing(worker: Worker) -> None:
    worker.ask(request(round=1), until_s=now_s() + PATIENCE_S)
    idle = process()
    idle.kill()
    idle.join(PATIENCE_S)
    assert not worker.ask(request(round=2), until_s=now_s() + PATIENCE_S).has_error()


def test_an_unknown_kind_of_message_is_refused(worker: Worker) -> None:
    message = request(round=1)
    message.metadata.message_type = "train.backdoor"
    assert worker.ask(message, until_s=now_s() + PATIENCE_S).error.reason == AgiError.public
    assert not worker.ask(request(round=2), until_s=now_s() + PATIENCE_S).has_error()


ORPHANAGE = """
import multiprocessing, sys, time
from pathlib import Path
from client.process.worker import Worker
if __name__ == "__main__":
    Worker(Path(sys.argv[1]))
    (worker,) = multiprocessing.active_children()
    print(worker.pid, flush=True)
    time.sleep(600)
"""


def test_a_worker_does_not_survive_its_runner(tmp_path: Path) -> None:
    script = tmp_path / "runner.py"
    script.write_text(ORPHANAGE)
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "site.yaml")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        orphan = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{orphan}").exists() and "\nState:\tZ" not in Path(f"/proc/{orphan}/status").read_text():
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.05)


BROKEN = """
import multiprocessing, sys
from pathlib import Path
from client.process.worker import Worker
if __name__ == "__main__":
    Worker(Path(sys.argv[1]))
    (worker,) = multiprocessing.active_children()
    worker.join()
    sys.exit(worker.exitcode)
"""


@pytest.mark.slow  # processes start several times
def test_a_site_file_that_breaks_beside_a_worker_names_nothing_in_its_log(tmp_path: Path) -> None:
    script = tmp_path / "runner.py"
    script.write_text(BROKEN)
    (tmp_path / "site.yaml").write_text("site: [sub-0042")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "site.yaml")], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1
    assert "error: The configuration was refused. python -m client --check says what is wrong." in done.stderr
    assert "sub-0042" not in done.stderr
    assert str(tmp_path) not in done.stderr


@pytest.mark.slow  # processes start several times
def test_a_process_that_still_starts_is_not_killed_for_it(tmp_path: Path, ixi_dir: Path) -> None:
    worker = Worker(deployed_site(tmp_path, ixi_dir))
    try:
        with pytest.raises(DeadlineError):
            worker.ask(request(round=1), until_s=now_s() + 0.05)
        starting = {child.pid for child in multiprocessing.active_children()}
        assert not worker.ask(request(round=1), until_s=now_s() + PATIENCE_S).has_error()
        assert {child.pid for child in multiprocessing.active_children()} == starting
    finally:
        worker.kill()


@pytest.mark.slow  # processes start several times
def test_an_edited_site_file_holds_from_the_next_request_on(tmp_path: Path, ixi_dir: Path) -> None:
    """What the old one said of the scans is not remembered."""
    site_path = deployed_site(tmp_path, ixi_dir)
    site_path.write_text(site_path.read_text().replace(str(ixi_dir), str(tmp_path / "nothing")))
    worker = Worker(site_path)
    try:
        heard: list[progress.News] = []
        with progress.listening(heard.append):
            assert reason(worker.ask(request(round=1), until_s=now_s() + PATIENCE_S)) == DataError.public
        assert heard == [progress.Refused(f"{DataError.public} In full: details.log.")]
        deployed_site(tmp_path, ixi_dir)
        assert not worker.ask(request(round=1), until_s=now_s() + PATIENCE_S).has_error()
    finally:
        worker.kill()
