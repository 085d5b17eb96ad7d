"""Each fault once, in real processes: a coordinator with TLS, node keys and a database, and two hospitals. hospitalA is
well; hospitalB, whose network can be cut, or the coordinator is not. What must hold each time: the run goes on with
its quorum, or pauses and is resumed; events and report name the fault; the coordinator waits no longer than `LIMIT_S`
after the deadline; the site is back within `READY_S` of it; no process is left over."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agi_core.errors import DeadlineError, ExhaustedError, ProtocolError
from agi_core.run.events import Retried, RoundFinished, RunPaused, RunResumed
from server.exchange import GRACE_S
from tests.support.federation_of_processes import NODE, RUNNER, STOP_S, Federation, Hospital, Run, running
from tests.support.real_processes import slowness, until, wire
from tests.support.small_data import write_ixi

pytestmark = pytest.mark.slow
LIMIT_S, READY_S = 30.0, 15.0
DEADLINE_S = 25
MINUTE_S = 60  # Flower notices after that time that a process or a node is gone
BOTH = ["hospitalA", "hospitalB"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    place = tmp_path_factory.mktemp("faults")
    data_dir = write_ixi(place / "scans", {"Guys": 5})
    injected = {"PYTHONPATH": str(Path(__file__).parent / "injected"), "FAULTS": str(place)}
    federation = Federation(place, **injected)
    with wire(federation.port) as (port, federation.networks["hospitalB"]), running(federation):
        federation.join("hospitalA", data_dir)
        federation.join("hospitalB", data_dir, port=port, **injected)
        run = submit(federation, "well", quorum=2, deadline_s=300, rounds=1)  # and caches are made
        run.until_state("finished")
        assert run.troubles() == set()
        yield federation


@pytest.fixture
def hospital(federation: Federation) -> Iterator[Hospital]:
    """hospitalB; its processes after the fault are those that it had before."""
    federation.until_ready()
    hospital = federation.hospitals["hospitalB"]
    before = hospital.kinds()
    yield hospital
    limit_s = READY_S * slowness()
    until(lambda: hospital.kinds() == before, f"{before} again, not {hospital.kinds()}", deadline_s=limit_s)


def submit(federation: Federation, name: str, *, quorum: int, deadline_s: int, rounds: int) -> Run:
    limits = (f"federation.quorum={quorum}", f"federation.deadline_s={deadline_s}", "federation.wait_s=300")
    return federation.submit(name, f"rounds={rounds}", "federation.retries=3", *limits)


def without_one(federation: Federation, name: str) -> tuple[Run, int]:
    """A run that needs one site only, and its deadline in seconds. A busy machine gets more time."""
    deadline_s = round(DEADLINE_S * min(slowness(), 4.0))
    return submit(federation, name, quorum=1, deadline_s=deadline_s, rounds=4), deadline_s


def check_story(run: Run, deadline_s: int, *reasons: str) -> None:
    """The run went on without hospitalB from round 1, which is why it says, and with it as soon as it was back."""
    run.until_state("finished")
    assert {site for site, _, _ in run.troubles()} == {"hospitalB"}
    (reason,) = [reason for _, round, reason in run.troubles() if round == 1]
    assert reason in reasons
    assert reason in run.report()
    took_part = run.took_part()
    assert took_part[0] == ["hospitalA"]
    ready_s = run.seconds_to(took_part.index(BOTH) + 1) - run.seconds_to(1)
    print(f"round 1 {run.seconds_to(1):.1f} s; back {ready_s:.1f} s later; {slowness():.1f} times slower than idle")
    assert run.seconds_to(1) < deadline_s + LIMIT_S
    assert ready_s < READY_S * slowness()


def too_late(deadline_s: int) -> tuple[str, str, str]:
    """In the coordinator's words, whether it or Flower notices first."""
    lost = "its connection was lost for a minute: its node or its network failed"
    return f"no answer to train within {deadline_s} s", "no answer in time", lost


# what a site recovers from by itself


def test_a_step_that_hangs(federation: Federation, hospital: Hospital) -> None:
    run, deadline_s = without_one(federation, "hang")
    hung = hospital.hold(round=1)
    check_story(run, deadline_s, DeadlineError.public, *too_late(deadline_s))
    assert not Path(f"/proc/{hung}").exists()


def test_a_site_that_sleeps_past_the_deadline(federation: Federation, hospital: Hospital) -> None:
    run, deadline_s = without_one(federation, "sleep")
    hospital.hold(round=1)
    asleep = list(hospital.processes())
    for process in asleep:
        os.kill(process, signal.SIGSTOP)
    until(lambda: run.events(RoundFinished), "the round ends without it")
    for process in asleep:
        os.kill(process, signal.SIGCONT)
    check_story(run, deadline_s, *too_late(deadline_s))


def test_a_gpu_without_memory(federation: Federation, hospital: Hospital) -> None:
    """Simulated: torch's own error, raised in the middle of the training."""
    fault = federation.folder / "out-of-memory"
    fault.touch()
    run, deadline_s = without_one(federation, "memory")
    check_story(run, deadline_s, ExhaustedError.public)
    assert not fault.exists()
    assert "CUDA out of memory" in (Path(hospital.site.state_dir) / "logs" / "details.log").read_text()


# what Flower notices after a minute


@contextlib.contextmanager
def killed_runner(hospital: Hospital, network: threading.Event) -> Iterator[None]:
    os.kill(hospital.process_of(RUNNER), signal.SIGKILL)
    yield


@contextlib.contextmanager
def killed_node(hospital: Hospital, network: threading.Event) -> Iterator[None]:
    os.kill(hospital.process_of(NODE), signal.SIGKILL)
    yield


@contextlib.contextmanager
def killed_client(hospital: Hospital, network: threading.Event) -> Iterator[None]:
    """Node, runner and worker end with it, the worker although it hangs."""
    hospital.process.kill()
    hospital.process.wait()
    until(lambda: not hospital.processes(), "nothing is left of it", deadline_s=STOP_S * slowness())
    hospital.start()
    yield


@contextlib.contextmanager
def cut_network(hospital: Hospital, network: threading.Event) -> Iterator[None]:
    began = time.monotonic()
    network.clear()
    yield
    until(lambda: time.monotonic() - began > MINUTE_S, "the network is mended")
    network.set()


@pytest.mark.parametrize("fault", [killed_runner, killed_node, killed_client, cut_network])
def test_a_site_that_is_lost_for_a_minute(
    federation: Federation,
    hospital: Hospital,
    fault: Callable[[Hospital, threading.Event], contextlib.AbstractContextManager[None]],
) -> None:
    """Both sites are needed, so the round is asked again."""
    run = submit(federation, fault.__name__, quorum=2, deadline_s=MINUTE_S, rounds=1)
    worker = hospital.hold(round=1)
    with fault(hospital, federation.networks["hospitalB"]), contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGCONT)
    run.until_state("finished")
    assert {(site, round) for site, round, _ in run.troubles()} == {("hospitalB", 1)}
    assert any(reason in run.report() for _, _, reason in run.troubles())
    assert {name for event in run.events(Retried) for name in event.answered} == {"hospitalA"}
    assert run.took_part() == [BOTH]
    print(f"{run.seconds_to(1):.1f} s, {run.troubles()}; {slowness():.1f} times slower than idle")
    assert run.seconds_to(1) < MINUTE_S + GRACE_S + READY_S * slowness()


# the coordinator


def test_a_superlink_that_is_killed(federation: Federation, hospital: Hospital) -> None:
    run = submit(federation, "superlink", quorum=2, deadline_s=MINUTE_S, rounds=2)
    worker = hospital.hold(round=2)
    (superlink,) = [
        process for process, command in federation.up.processes().items() if "guarded_superlink " in command
    ]
    os.kill(superlink, signal.SIGKILL)
    assert federation.up.process.wait(LIMIT_S * slowness()) == 2
    until(lambda: not federation.up.processes(), "nothing is left of it", deadline_s=STOP_S * slowness())
    assert run.state() == "interrupted"
    os.kill(worker, signal.SIGCONT)

    federation.start()
    federation.resume(run)
    run.until_state("finished")
    assert run.took_part() == [BOTH, BOTH]
    assert [event.round for event in run.events(RunResumed)] == [1]
    assert "was interrupted" in run.report()
    assert all(hospital.process.poll() is None for hospital in federation.hospitals.values())  # they did nothing


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full(federation: Federation, hospital: Hospital) -> None:
    runs_dir = federation.dir / "runs"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(runs_dir)], check=True)
    try:
        run = submit(federation, "disk", quorum=2, deadline_s=MINUTE_S, rounds=2)
        worker = hospital.hold(round=1)
        filler = runs_dir / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        os.truncate(filler, filler.stat().st_size - 2 * 4096)  # room for a line, and not for a model
        os.kill(worker, signal.SIGCONT)
        run.until_state("paused")
        assert "The disk is full" in run.events(RunPaused)[0].reason
        filler.unlink()

        federation.resume(run)
        run.until_state("finished")
        assert run.took_part()[-2:] == [BOTH, BOTH]  # the round that could not be saved was done again
        assert "The disk is full" in run.report()
    finally:
        subprocess.run(["umount", "--lazy", str(runs_dir)], check=True)


def test_a_request_that_asks_for_a_forbidden_field(federation: Federation, hospital: Hospital) -> None:
    """The coordinator's program is another one than ours: every site refuses, and the run can go on with ours."""
    fault = federation.folder / "forbidden-field"
    fault.touch()
    run = submit(federation, "forbidden", quorum=1, deadline_s=MINUTE_S, rounds=2)
    run.until_state("paused")
    # round 0 is the question for statistics
    assert run.troubles() == {(name, round, ProtocolError.public) for name in BOTH for round in (0, 1)}
    assert ProtocolError.public in run.report()
    for name in BOTH:
        log_path = Path(federation.hospitals[name].site.state_dir) / "logs" / "details.log"
        assert "unknown fields: subject_ids" in log_path.read_text()

    fault.unlink()
    federation.resume(run)
    run.until_state("finished")
    assert run.took_part() == [BOTH, BOTH]
