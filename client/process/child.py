"""One program that is kept alive: its process, its log, and the pauses before it starts again."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agi_core.errors import RunError
from agi_core.host.logs import LOG_BYTES, begin_anew
from agi_core.host.processes import die_with

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 10.0
STEADY_S = 120.0  # a program that ran for so long has not failed: it starts after the first pause again


@dataclass(frozen=True)
class Program:
    """What to run: a short name, which its log has too, and the command line."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ChildState:
    """One program now. `pid` None = it ended with `exit_code` (negative: killed by that signal) and starts again in
    `restart_in_s`. `new_log` is what it logged since the last call."""

    name: str
    pid: int | None
    exit_code: int | None
    restart_in_s: float
    new_log: str


class Child:
    """A program, started by `tend` in a session of its own. When this process is killed, the kernel kills the child's
    process (Linux)."""

    def __init__(self, program: Program, *, log_dir: Path, environment: Mapping[str, str]) -> None:
        self._program, self._environment = program, environment
        self._log = _Log(log_dir / f"{program.name}.log")
        self._generator = random.Random()
        self._process: subprocess.Popen[bytes] | None = None
        self._exit_code: int | None = None
        self._failures, self._started, self._next_start = 0, 0.0, 0.0

    def tend(self) -> None:
        """Note an end, or start what is due.

        Raises:
            RunError: the program cannot be started at all, or its log cannot be written.
        """
        now = time.monotonic()
        if self._process is None and now >= self._next_start:
            self._started, self._process = now, self._start()
        elif self._process is not None and self.has_ended:
            self._exit_code = self.kill()  # it may have left behind what it started
            self._failures = 1 if now - self._started > STEADY_S else self._failures + 1
            self._next_start = now + pause_s(self._failures, self._generator)

    def state(self) -> ChildState:
        """How it is now."""
        pid = self._process.pid if self._process is not None else None
        restart_in_s = 0.0 if pid else max(0.0, self._next_start - time.monotonic())
        return ChildState(
            name=self._program.name,
            pid=pid,
            exit_code=self._exit_code,
            restart_in_s=restart_in_s,
            new_log=self._log.read_new(),
        )

    @property
    def has_ended(self) -> bool:
        """Whether no process runs. One that ended is not reaped here, so its number still stands for its group."""
        process = self._process
        return process is None or os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def ask_to_end(self) -> None:
        """SIGTERM to the program alone: it knows how to end what it started."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> int | None:
        """SIGKILL to the program and to all that it started in its session; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        name, log_path = self._program.name, self._log.path
        try:
            log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with log_path.open("ab") as log:
                return subprocess.Popen(
                    self._program.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(self._environment),
                    start_new_session=True,  # Ctrl-C reaches this process alone, and all of the group can be killed
                    preexec_fn=partial(die_with, os.getpid()),
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise RunError(f"{name} cannot be started ({error}); check the installation and {log_path}") from None


def pause_s(failures: int, generator: random.Random) -> float:
    """The pause after the n-th failure in a row (from 1), in seconds: doubled up to the longest, then shortened by up
    to half at random."""
    longest: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30))
    return longest * generator.uniform(0.5, 1.0)


class _Log:
    """A log that its program appends to, read piece by piece and moved when it is long."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_bytes = path.stat().st_size if path.is_file() else 0

    def read_new(self) -> str:
        """What was written since the last call."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._read_bytes:  # somebody emptied it
                    self._read_bytes = 0
                file.seek(self._read_bytes)
                new = file.read()
        except FileNotFoundError:  # somebody removed it; the next start makes it again
            return ""
        self._read_bytes += len(new)
        if self._read_bytes > LOG_BYTES:
            with contextlib.suppress(OSError, RunError):  # a full disk ends nothing here
                begin_anew(self.path)
                self._read_bytes = 0
        return new.decode(errors="replace")
