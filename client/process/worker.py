"""The process that does a site's work, and the handle through which the runner asks it, hears it and kills it.

The process imports the installed ClientApp once and answers request after request, so opened data, model and CUDA
context stay in memory. A step that hangs in a driver or in native code cannot be ended from within Python, but a
process can be killed. After a missed deadline it is killed and another one is started. That takes seconds, because the
caches on the disk remain.
"""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict

from agi_core.errors import AgiError, ConfigError, DeadlineError
from agi_core.host.processes import die_with
from agi_core.protocol import FAILED
from agi_core.run import progress
from client.border.egress import refuse
from client.process.logs import keep_logs, without_logs
from client.site.file import edit_stamp, read_deployed_site

READY, PARCEL = "ready", "parcel"
POLL_S = 1.0
STARTS_S = 300.0  # longest start of a process: it imports torch, perhaps from a network disk, and opens the GPU
KILL_S = 2.0  # a process that waits for a driver or a network disk may outlive SIGKILL; it is left behind
PROCESSES = multiprocessing.get_context("spawn")  # a forked child could not use CUDA, nor trust its parent's threads
log = logging.getLogger("client")


def now_s() -> float:
    """Seconds since boot, including those that the machine slept. So a laptop that wakes up knows that a deadline has
    passed."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Worker:
    """The working process of the site at `site_path`. Another one takes its place whenever it fails."""

    def __init__(self, site_path: Path) -> None:
        self._site_path = site_path
        self._start()

    def ask(self, message: Message, *, until_s: float) -> Message:
        """The ClientApp's reply to `message`, if it comes before `now_s()` reaches `until_s`. Steps are reported
        meanwhile.

        A process that is still starting at the deadline may go on: if it were killed again and again, it would never be
        ready. A process that was started before the site file was last changed is replaced first.

        Raises:
            DeadlineError: it did not come in time.
            AgiError: the process ended, for example for want of memory.
        """
        if not self._process.is_alive() or edit_stamp(self._site_path) != self._reads:
            self._restart()
        asked = False
        try:
            while self._hear(until_s) != READY:
                pass
            asked = True
            send_parcel(self._connection, message)
            while isinstance(news := self._hear(until_s), progress.Step | progress.Refused):
                progress.report(news)
        except DeadlineError:
            if asked or now_s() - self._started_s > STARTS_S:
                self._restart()
            raise
        except AgiError:
            self._restart()
            raise
        except OSError as error:  # the pipe
            self._restart()
            raise AgiError(f"the working process broke off: {error}") from None
        reply: Message = news
        return reply

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join(KILL_S)
        self._connection.close()

    def _hear(self, until_s: float) -> Any:
        """What the process says next."""
        while True:
            left_s = until_s - now_s()
            if left_s <= 0:
                raise DeadlineError(
                    "the work was abandoned at its deadline; if it is too short for this machine, ask the coordinator"
                    " for a longer federation.deadline_s, or raise policy.max_deadline_s of this site"
                )
            if self._connection in wait([self._connection, self._process.sentinel], min(left_s, POLL_S)):
                with contextlib.suppress(EOFError, ConnectionError):
                    news = self._connection.recv()
                    return unpack_parcel(self._connection) if news == PARCEL else news
            if not self._process.is_alive():
                raise AgiError(
                    f"the working process ended with code {self._process.exitcode}"
                    " (-9 without another reason: the system ran out of memory)"
                )

    def _start(self) -> None:
        self._started_s, self._reads = now_s(), edit_stamp(self._site_path)
        self._connection, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(
            target=_work, args=(theirs, self._site_path, os.getpid()), name="worker", daemon=True
        )
        self._process.start()
        theirs.close()

    def _restart(self) -> None:
        self.kill()
        self._start()


def send_parcel(connection: Connection, message: Message) -> None:
    """Hand a message over in memory that both processes see. The pipe itself moves a few pages at a time, and takes
    twice as long for a hundred megabytes."""
    with open(os.memfd_create("message"), "wb") as file:
        pickle.dump(message, file, protocol=pickle.HIGHEST_PROTOCOL)
        file.flush()
        connection.send(PARCEL)
        send_handle(connection, file.fileno(), None)


def unpack_parcel(connection: Connection) -> Message:
    """The message that follows the word `PARCEL`."""
    with open(recv_handle(connection), "rb") as file:
        file.seek(0)  # sender and receiver share the position
        message: Message = pickle.load(file)  # noqa: S301  written by our own program, as is what `Connection.recv` reads
        return message


def _work(connection: Connection, site_path: Path, runner_pid: int) -> None:
    """What the process does: it answers each message until the runner goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's affair
    die_with(runner_pid)  # no orphans: a runner that is killed takes its worker along, hung or not
    from client.app import app  # here, so that the runner itself needs no torch

    try:
        site = read_deployed_site(site_path)
        keep_logs(Path(site.state_dir))
    except ConfigError as error:  # the file was broken since the runner read it
        sys.exit(without_logs(error))
    context = Context(0, 0, node_config={"site-config": str(site_path)}, state=RecordDict(), run_config={})

    def answer(message: Message) -> Message:
        try:
            return app(message, context)
        except Exception:  # a kind of message that the app does not know
            log.exception("the message could not be answered")
            refusal = refuse(AgiError(), code=FAILED, asked={}, site=site)
            return Message(Error(code=refusal.code, reason=refusal.reason), reply_to=message)

    def on_progress(news: progress.News) -> None:
        if isinstance(news, progress.Step | progress.Refused):
            connection.send(news)

    with progress.listening(on_progress), contextlib.suppress(EOFError):
        while True:
            connection.send(READY)
            connection.recv()
            send_parcel(connection, answer(unpack_parcel(connection)))
