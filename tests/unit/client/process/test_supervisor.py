"""A real supervisor process with small real children."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agi_core.errors import RunError
from client.process.child import Program
from client.process.lock import client_runs, only_client
from client.process.supervisor import supervise

DEADLINE_S = 30.0
SUPERVISOR = """
import json, os, sys
from pathlib import Path
from client.process import child
from client.process.child import Program
from client.process.lock import only_client
from client.process.supervisor import supervise

state_dir, sources = Path(sys.argv[1]), sys.argv[2:]
child.FIRST_PAUSE_S, child.LONGEST_PAUSE_S = 0.05, 0.2

def listener(states):
    with (state_dir / "states.jsonl").open("a") as file:
        file.write(json.dumps([state.__dict__ for state in states]) + "\\n")

programs = [Program(f"child{n}", (sys.executable, "-u", "-c", source)) for n, source in enumerate(sources)]
with only_client(state_dir):
    supervise(programs, state_dir=state_dir, environment=os.environ, listener=listener)
"""
POLITE = """
import pathlib, signal, sys, time
def end(*_):
    print("asked to end", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while True: time.sleep(60)
"""
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)"])
print("grandchild", grandchild.pid, flush=True)
while True: time.sleep(60)
"""


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (value := what()):
        assert time.monotonic() < deadline, "the deadline passed"
        time.sleep(0.02)
    return value


def alive(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


class Supervised:
    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *sources: str) -> int:
        command = [sys.executable, "-c", SUPERVISOR, str(self.state_dir), *sources]
        self.process = subprocess.Popen(command, start_new_session=True)
        return self.process.pid

    def states(self) -> list[list[dict[str, Any]]]:
        path = self.state_dir / "states.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.is_file() else []
        return [json.loads(line) for line in lines]

    def pids(self) -> set[int]:
        return {child["pid"] for states in self.states() for child in states if child["pid"]}

    def log(self, name: str) -> str:
        path = self.state_dir / "logs" / f"{name}.log"
        return path.read_text() if path.is_file() else ""


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    one = Supervised(tmp_path)
    yield one
    assert one.process is not None
    for pid in (one.process.pid, *one.pids()):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    one.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_asks_every_child_to_end(supervised: Supervised, number: signal.Signals) -> None:
    pid = supervised.start(POLITE, POLITE)
    wait_for(lambda: "ready" in supervised.log("child0") and "ready" in supervised.log("child1"))
    os.kill(pid, number)
    assert supervised.process is not None
    assert supervised.process.wait(DEADLINE_S) == 0
    assert "asked to end" in supervised.log("child0")
    assert "asked to end" in supervised.log("child1")
    assert not any(alive(child) for child in supervised.pids())


def test_children_that_will_not_end_are_killed_within_10_s_with_all_they_started(supervised: Supervised) -> None:
    pid = supervised.start(STUBBORN)
    line = wait_for(lambda: [line for line in supervised.log("child0").splitlines() if line.startswith("grandchild")])
    grandchild = int(line[0].split()[1])
    started = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    assert supervised.process is not None
    assert supervised.process.wait(DEADLINE_S) == 0
    assert time.monotonic() - started < 10
    wait_for(lambda: not alive(grandchild))
    assert not any(alive(child) for child in supervised.pids())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_no_child_outlives_a_supervisor_that_is_killed(supervised: Supervised) -> None:
    pid = supervised.start(POLITE, STUBBORN)
    wait_for(lambda: "ready" in supervised.log("child0") and "grandchild" in supervised.log("child1"))
    children = wait_for(supervised.pids)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(alive(child) for child in children))
    with only_client(supervised.state_dir):  # its lock went with it
        assert client_runs(supervised.state_dir)
    grandchild = int(supervised.log("child1").split()[1])
    os.kill(grandchild, signal.SIGKILL)  # one process of a program dies with its parent, not a whole tree


def test_what_ends_is_started_again_and_told_with_its_exit_code(supervised: Supervised) -> None:
    pid = supervised.start("import sys; print('gone', flush=True); sys.exit(3)", POLITE)
    wait_for(lambda: supervised.log("child0").count("gone") >= 3)
    states = wait_for(lambda: [s for s in supervised.states() if s[0]["exit_code"] == 3 and s[0]["pid"] is None])
    assert 0 <= states[0][0]["restart_in_s"] <= 0.2
    assert "".join(s[0]["new_log"] for s in supervised.states()).startswith("gone\ngone\n")
    assert len({s[1]["pid"] for s in supervised.states()}) == 1  # the other was left alone
    os.kill(pid, signal.SIGTERM)
    assert supervised.process is not None
    assert supervised.process.wait(DEADLINE_S) == 0


def test_a_killed_child_comes_back(supervised: Supervised) -> None:
    supervised.start(POLITE)
    (first,) = wait_for(supervised.pids)
    os.killpg(first, signal.SIGKILL)
    wait_for(lambda: len(supervised.pids()) == 2)
    assert any(s[0]["exit_code"] == -signal.SIGKILL for s in supervised.states())


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunError, match=r"node cannot be started.*check the installation"):
        supervise(
            [Program("node", (str(tmp_path / "flower-supernode"),))],
            state_dir=tmp_path,
            environment=os.environ,
            listener=lambda _: None,
        )
    assert signal.getsignal(signal.SIGTERM) is before
