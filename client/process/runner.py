"""The runner alone lets requests reach the data. It is started as
`python -m client.process.runner --site-file PATH --secret-file FILE`.

It stands beside `flower-supernode --isolation process` and takes requests from that node's Runtime API on loopback
(`client/process/runtime_api.py`): take a request, let the *installed* ClientApp answer, hand the reply back.

There are two processes. This one speaks Flower, keeps heartbeat and deadline, and is never busy. The `Worker` below it
holds data, model and GPU from request to request; it is killed and replaced when a request misses its deadline (Flower
never ends an app that hangs) or when it dies. An answer that the node no longer takes is not lost: the worker has
stored it, and the coordinator's repeated request gets it at once (`client/border/stored_replies.py`). Errors leave as
public sentences.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flwr.app import ConfigRecord, Error, Message, MessageType

from agi_core.errors import AgiError, ConfigError, RunError, StoppedError
from agi_core.host.command_line import keep_files_private
from agi_core.host.console import printable
from agi_core.protocol import METRICS, NONCE, SCALARS
from agi_core.run import progress
from client.border.cause import cause
from client.border.egress import refuse
from client.process.logs import keep_logs, without_logs
from client.process.runtime_api import NodeError, RuntimeApi
from client.process.status import StatusFile, doing
from client.process.worker import Worker, now_s
from client.site.file import DeployedSite, read_deployed_site
from client.site.policy import Policy

POLL_S = 0.2
BACK_OFF_S = 2.0  # longest pause between two looks for a node that is not there
STOP_S = 4.0  # a stop may take this long
log = logging.getLogger("client")


class Stop(BaseException):
    """SIGTERM or SIGINT arrived."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer requests until stopped. Returns the exit code: 0 after a stop, 1 where it cannot work."""
    parser = argparse.ArgumentParser(
        prog="python -m client.process.runner", description="Answers the requests of one site."
    )
    parser.add_argument("--site-file", type=Path, required=True, help="the site's YAML file")
    parser.add_argument("--secret-file", type=Path, required=True, help="the secret shared with flower-supernode")
    options = parser.parse_args(arguments)
    keep_files_private()
    try:
        site_path = options.site_file.resolve()
        site = read_deployed_site(site_path)
        keep_logs(Path(site.state_dir))
        secret = _read_secret(options.secret_file)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):  # it speaks to this machine alone
            os.environ.pop(name, None)
            os.environ.pop(name.lower(), None)
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, _stop)
        Runner(site_path, site, secret=secret).run()
    except Stop:
        return 0
    except ConfigError as error:
        print(without_logs(error), file=sys.stderr)
        return 1
    except RunError as error:  # about the secret or the node, without a path
        print(f"error: {error}", file=sys.stderr)
        return 1


class Runner:
    """The node's requests, one after the other, for the site of a site file."""

    def __init__(self, site_path: Path, site: DeployedSite, *, secret: bytes) -> None:
        self._site_path, self._site = site_path, site
        self._status = StatusFile(Path(site.state_dir))
        self._worker = Worker(site_path)
        self._node = RuntimeApi(site.runtime_port, secret=secret)

    def run(self) -> NoReturn:
        """Answer request after request, for ever; wait while the node is not there.

        Raises:
            RunError: the node does not accept the secret.
        """
        pause_s = POLL_S
        try:
            with progress.listening(self._status.on_progress):
                while True:
                    try:
                        token = self._node.next_task()
                    except NodeError:
                        if pause_s == POLL_S:
                            log.warning("the node does not answer on port %d; waiting for it", self._site.runtime_port)
                        pause_s = min(2 * pause_s, BACK_OFF_S)
                    else:
                        pause_s = POLL_S
                        if token is not None:
                            self._serve(token)
                    time.sleep(pause_s)
        finally:
            self._worker.kill()
            self._node.close()
            self._status.remove()

    def _serve(self, token: str) -> None:
        """Take one request from the node, and hand the reply back. A node that goes away meanwhile is no error."""
        metrics: dict[str, float] = {}
        try:
            with self._node.task(token) as task:
                try:
                    reply = self._answer(task.message)
                except Stop:
                    self._worker.kill()
                    with suppress(Exception):  # a node that stops as well may be gone
                        task.push(self._refusal(StoppedError(), task.message))
                    raise
                task.push(reply)
                metrics = _metrics(reply)
        except NodeError as error:
            log.warning("the node broke off (%s); if the coordinator asks again, it gets the stored answer", error)
        except Exception:
            log.exception("the request was lost between node and runner")
        self._status.waiting(metrics)

    def _answer(self, message: Message) -> Message:
        """The worker's reply, or a public sentence instead. The site file is read anew: an edited policy holds at
        once."""
        scalars = _scalars(message)
        run, round = scalars.get("run_id"), scalars.get("round")
        trains = message.metadata.message_type == MessageType.TRAIN
        state = doing(str(scalars.get("subjects")), trains=trains)
        self._status.working(
            state, run=printable(run) if isinstance(run, str) else None, round=round if isinstance(round, int) else None
        )
        log.info("%s: run %.40r, round %.10r", state, run, round)  # a stranger's text: no escape codes
        try:
            policy = read_deployed_site(self._site_path).policy
            reply = self._worker.ask(message, until_s=now_s() + allowed_s(scalars, policy))
        except AgiError as error:
            log.error("%s", error)
            progress.report(progress.Refused(cause(error)))
            reply = self._refusal(error, message)
        log.info("answered%s", f": {reply.error.reason}" if reply.has_error() else "")
        return reply

    def _refusal(self, error: AgiError, message: Message) -> Message:
        refusal = refuse(error, asked=_scalars(message), site=self._site)
        return Message(Error(code=refusal.code, reason=refusal.reason), reply_to=message)


def allowed_s(scalars: Mapping[str, object], policy: Policy) -> int:
    """The seconds that a request gets: what it asks for, at most what the site's policy allows."""
    asked = scalars.get("deadline_s")
    return min(asked, policy.max_deadline_s) if isinstance(asked, int) else policy.max_deadline_s


def _scalars(message: Message) -> Mapping[str, object]:
    return dict(message.content.config_records.get(SCALARS, ConfigRecord())) if message.has_content() else {}


def _metrics(reply: Message) -> dict[str, float]:
    records = reply.content.metric_records if reply.has_content() else {}
    told = records.get(METRICS, {}).items()
    return {name: value for name, value in told if isinstance(value, int | float) and name != NONCE}


def _read_secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes()  # the node too takes the file's exact bytes
    except OSError as error:
        raise RunError(f"the file of --secret-file cannot be read ({error.strerror}); check its path") from None
    if not secret:
        raise RunError("the file of --secret-file is empty; delete it and start the site again")
    return secret


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End soon, whatever is going on. A node that hangs may delay the last reply by `STOP_S` seconds at most."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    farewell = threading.Timer(STOP_S, os._exit, [1])
    farewell.daemon = True
    farewell.start()
    raise Stop


if __name__ == "__main__":
    sys.exit(main())
