"""Keeps a site's processes alive, and ends them all.

Knows nothing of Flower: it starts programs, each in its own session with a log file, restarts what ended after a
growing pause, and tells a listener several times a second how they are. SIGTERM, SIGHUP and Ctrl-C end everything
within 10 s. When the supervisor itself is killed, the kernel kills its children (Linux).
"""

import contextlib
import fcntl
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from agi_core.errors import RunError
from agi_core.host.processes import die_with

POLL_S = 0.2
GRACE_S = 6.0  # between the request to end and the kill
LOG_BYTES = 10 * 2**20  # of one log; the part before it is kept as NAME.log.1
LOCK_NAME = "client.lock"


@dataclass(frozen=True)
class Program:
    """What to run: a short name, also that of its log, and the command line."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Backoff:
    """Pauses before restarts: `first_s`, doubled up to `cap_s`, each shortened by up to half at random. A program that
    ran for `steady_s` starts at `first_s` again."""

    first_s: float = 1.0
    cap_s: float = 10.0
    steady_s: float = 120.0

    def pause_s(self, failures: int, generator: random.Random) -> float:
        """The pause after the n-th failure in a row (from 1)."""
        longest: float = min(self.cap_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return longest * generator.uniform(0.5, 1.0)


@dataclass(frozen=True)
class ChildState:
    """One program now. `pid` None = it ended with `exit_code` (negative: killed by that signal) and starts again in
    `restart_in_s`. `new_log` is what it logged since the last call."""

    name: str
    pid: int | None
    exit_code: int | None
    restart_in_s: float
    new_log: str


Listener = Callable[[Sequence[ChildState]], None]


def supervise(
    programs: Sequence[Program],
    *,
    state_dir: Path,
    environment: Mapping[str, str],
    listener: Listener,
    backoff: Backoff | None = None,
) -> None:
    """Run the programs until SIGTERM, SIGHUP or Ctrl-C; return when all have ended. Call it in the main thread.

    Raises:
        RunError: a program cannot be started at all, or its log cannot be written.
    """
    generator = random.Random()
    children = [_Child(program, state_dir / "logs", environment, backoff or Backoff()) for program in programs]
    with _stop_request() as stop_requested:
        try:
            while not stop_requested():
                for child in children:
                    child.tend(generator)
                listener([child.state() for child in children])
                time.sleep(POLL_S)
        finally:
            _end([child.process for child in children if child.process is not None])


@contextlib.contextmanager
def only_client(state_dir: Path) -> Iterator[None]:
    """Hold the lock of the state folder within the block: one client per site and machine. It ends with the process,
    however that ends.

    Raises:
        RunError: another client holds it, or the folder cannot be written.
    """
    lock_path = state_dir / LOCK_NAME
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = lock_path.open("a+")
    except OSError as error:
        raise RunError(f"{lock_path}: {error.strerror}; check state_dir in the site file and its permissions") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = lock_path.read_text().strip() or "unknown"
            raise RunError(
                f"a client of this site is already running as process {pid} (it holds {lock_path});"
                f" stop it first: Ctrl-C in its terminal, or kill {pid}"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def client_runs(state_dir: Path) -> bool:
    """Whether a client holds the lock of this state folder."""
    try:
        with (state_dir / LOCK_NAME).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


class _Child:
    """One program with its process, if it runs, and its log."""

    def __init__(self, program: Program, log_dir: Path, environment: Mapping[str, str], backoff: Backoff) -> None:
        self._program, self._environment, self._backoff = program, environment, backoff
        self._log_path = log_dir / f"{program.name}.log"
        self._log_read = self._log_path.stat().st_size if self._log_path.is_file() else 0
        self.process: subprocess.Popen[bytes] | None = None
        self._exit_code: int | None = None
        self._failures, self._started, self._next_start = 0, 0.0, 0.0

    def tend(self, generator: random.Random) -> None:
        """Note an end, or start what is due."""
        now = time.monotonic()
        if self.process is not None:
            if _ended(self.process):
                _kill_group(self.process)  # what it may have left behind
                self._exit_code = self.process.wait()
                self.process = None
                self._failures = 1 if now - self._started > self._backoff.steady_s else self._failures + 1
                self._next_start = now + self._backoff.pause_s(self._failures, generator)
        elif now >= self._next_start:
            self._started = now
            self.process = _start(self._program, self._log_path, self._environment)

    def state(self) -> ChildState:
        pid = self.process.pid if self.process is not None else None
        restart_in_s = 0.0 if pid else max(0.0, self._next_start - time.monotonic())
        return ChildState(self._program.name, pid, self._exit_code, restart_in_s, self._new_log())

    def _new_log(self) -> str:
        try:
            with self._log_path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._log_read:  # somebody emptied it
                    self._log_read = 0
                file.seek(self._log_read)
                new = file.read()
        except FileNotFoundError:  # somebody removed it; the next start makes it again
            return ""
        self._log_read += len(new)
        if self._log_read > LOG_BYTES:  # the program appends, so it goes on in the emptied file
            shutil.copyfile(self._log_path, self._log_path.with_name(f"{self._log_path.name}.1"))
            os.truncate(self._log_path, 0)
            self._log_read = 0
        return new.decode(errors="replace")


def _start(program: Program, log_path: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        with _open_log(log_path) as log:
            return subprocess.Popen(
                program.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, and all of the group can be killed
                preexec_fn=partial(die_with, os.getpid()),
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise RunError(f"{program.name} cannot be started ({error}); check the installation and {log_path}") from None


def _open_log(log_path: Path) -> IO[bytes]:
    log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return log_path.open("ab")


@contextlib.contextmanager
def _stop_request() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a signal has asked for the end."""
    asked: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, lambda received, _: asked.append(received)) for number in signals}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Ask all to end, kill what is left after `GRACE_S`, with everything that they started in their sessions."""
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)  # to the program alone: it knows how to end what it started
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and not all(_ended(process) for process in processes):
        time.sleep(0.05)
    for process in processes:
        _kill_group(process)
        process.wait()


def _ended(process: "subprocess.Popen[bytes]") -> bool:
    """Whether the process ended; it is not reaped yet, so its number still stands for its group."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
