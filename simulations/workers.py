"""Processes that do the work of simulated sites side by side, as many as the machine has cores for.

A job is a function that can be imported, and what it is called with. The jobs of one site are done by one process, so
that its scans are opened once. What a job reports of its progress is reported here.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from agi_core.config.schema import RunConfig
from agi_core.errors import AgiError, RunError
from agi_core.host.cores import cores
from agi_core.run import progress

LOWEST_PRIORITY = 19  # as `nice` counts


def processes_for(config: RunConfig, *, sites: int) -> int:
    """How many processes share the sites: one for each, and `threads` cores for each process. One means this process,
    and so does a GPU, of whose memory each would need its share."""
    from agi_core.host.device import open_device  # here, because PyTorch takes seconds, and jobs may not need it

    if config.engine != "processes" or open_device(config.device, threads=config.threads).type != "cpu":
        return 1
    return max(1, min(sites, cores() // config.threads))


def idle_processes_for(config: RunConfig, *, sites: int) -> int:
    """How many more would have a core to themselves while the last of the sites are at work."""
    if processes_for(config, sites=sites) == 1:
        return 0
    return min(sites, -sites % (cores() // config.threads))


@dataclass(frozen=True)
class _Answer:
    """To one job. `mistake` is an error that the user can mend, `fault` the traceback of any other."""

    job: int
    result: Any = None
    mistake: str = ""
    fault: str = ""


class Workers:
    """The processes. They end with the block, and with this process however that ends. Those of the lowest priority
    get the time that nobody else wants."""

    def __init__(self, count: int, *, lowest_priority: bool = False) -> None:
        self._workers = [_Worker(lowest_priority) for _ in range(count)]
        self._answers: dict[int, _Answer] = {}
        self._jobs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()

    def submit(self, work: Callable[..., Any], *arguments: Any, at: int) -> int:
        """The number of a new job. Those with the same `at` are done by the same process, one after another."""
        self._jobs += 1
        self._workers[at % len(self._workers)].add((self._jobs, work, arguments))
        return self._jobs

    def result(self, job: int) -> Any:
        """What a job returned; waits for it. It can be asked for once.

        Raises:
            RunError: the job raised an error that the user can mend, or its process has been killed.
            RuntimeError: the job raised any other; the text is its traceback.
        """
        while job not in self._answers:
            self._hear(within_s=None)
        answer = self._answers.pop(job)
        if answer.mistake:
            raise RunError(answer.mistake)
        if answer.fault:
            raise RuntimeError(answer.fault)
        return answer.result

    def is_done(self, job: int, *, within_s: float) -> bool:
        """Whether `result` would return at once. Where it would for no job, this one or another, waits so long at most
        until something is heard.

        Raises:
            RunError: a process has been killed.
        """
        self._hear(within_s=0 if self._answers else within_s)
        return job in self._answers

    def _hear(self, *, within_s: float | None) -> None:
        """What the processes say, as soon as one of them says anything."""
        ready = wait([worker.connection for worker in self._workers if worker.busy], within_s)
        for worker in self._workers:
            if worker.connection in ready and (answer := worker.hear()):
                self._answers[answer.job] = answer


class _Worker:
    """One process and the jobs that wait for it. It is sent a job when it has none: a pipe holds little, so two that
    write to each other would both wait."""

    def __init__(self, lowest_priority: bool) -> None:
        new = multiprocessing.get_context("spawn")  # not forked: PyTorch's threads do not survive that
        self.connection, theirs = new.Pipe()
        self._process = new.Process(target=_work, args=(theirs, lowest_priority), daemon=True)
        self._process.start()
        theirs.close()
        self._waiting: deque[tuple[int, Callable[..., Any], tuple[Any, ...]]] = deque()
        self.busy = False

    def add(self, job: tuple[int, Callable[..., Any], tuple[Any, ...]]) -> None:
        self._waiting.append(job)
        if not self.busy:
            self._send_next()

    def hear(self) -> _Answer | None:
        """The next thing that the process says: an answer, after which it gets its next job; or news, which is passed
        on."""
        try:
            said = self.connection.recv()
        except (EOFError, OSError):
            raise RunError(
                "a process of this simulation was killed, often because memory is short; close other programs, or set"
                " engine=in-process, which needs less"
            ) from None
        if not isinstance(said, _Answer):
            progress.report(said)
            return None
        self._send_next()
        return said

    def _send_next(self) -> None:
        self.busy = bool(self._waiting)
        if self.busy:
            with suppress(OSError):  # a process that is gone is named when it is heard
                self.connection.send(self._waiting.popleft())

    def end(self) -> None:
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _work(connection: Connection, lowest_priority: bool) -> None:
    """In the new process: one job after another, until there is nobody to ask."""
    if lowest_priority:
        os.nice(LOWEST_PRIORITY)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with progress.listening(connection.send):
        while True:
            try:
                job, work, arguments = connection.recv()
            except EOFError:
                return
            try:
                answer = _Answer(job, result=work(*arguments))
            except AgiError as error:
                answer = _Answer(job, mistake=str(error))
            except Exception:
                answer = _Answer(job, fault=traceback.format_exc())
            connection.send(answer)


def _end_with_parent() -> None:
    """Whatever is being done: a run that is killed and resumed must not meet its own past."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101  this is a child
    parent.join()
    os._exit(1)
