"""The runner lets requests reach the data, and nothing else does. It is started as
`python -m client.process.runner --site-file PATH --secret-file FILE`.

It stands beside `flower-supernode --isolation process` and takes requests from that node's Runtime API on loopback:
acquire a task, pull its message, let the *installed* ClientApp answer, push the reply. The bundle of code that comes
with every task is dropped unread: no code but the hospital's own touches its data.

Two processes. This one speaks Flower, keeps heartbeat and deadline, and is never busy; the `Worker` below it holds
data, model and GPU from request to request, and is killed and replaced when a request misses its deadline (Flower never
ends an app that hangs) or when it dies. An answer that the node no longer takes is not lost: the worker has stored it,
and the coordinator's repeated request gets it at once (`client/border/stored_replies.py`). Errors leave as public
sentences.

The private Flower calls of the runner stand in this file, those of the node in `client/process/node.py`: Flower 1.41.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import httpx
from flwr.app import ConfigRecord, Error, Message, MessageType
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from agi_core.errors import AgiError, ConfigError, RunError, StoppedError
from agi_core.protocol import METRICS, SCALARS
from agi_core.run import progress
from client.border.egress import refuse
from client.process.logs import keep_logs
from client.process.status import State, StatusFile
from client.process.worker import Worker, now_s
from client.site.file import DeployedSite, read_deployed_site
from client.site.policy import Policy

HOST = "127.0.0.1"
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"  # the one call that the secret signs
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
    try:
        site_path = options.site_file.resolve()
        site, secret = read_deployed_site(site_path), _read_secret(options.secret_file)
        keep_logs(Path(site.state_dir))
        logging.getLogger("httpx").setLevel(logging.WARNING)
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = HOST  # all it speaks to; a proxy would see the weights
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, _stop)
        run(site_path, site, secret)
    except Stop:
        return 0
    except AgiError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(site_path: Path, site: DeployedSite, secret: bytes) -> NoReturn:
    """Take request after request from the node's Runtime API, for ever; wait while the node is not there.

    Raises:
        RunError: the node does not accept the secret.
    """
    status = StatusFile(Path(site.state_dir))
    worker = Worker(site_path)
    tasks = _connect(site, SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={ACQUIRE}))
    pause_s = POLL_S
    try:
        with progress.listening(status.on_progress):
            while True:
                try:
                    task = tasks.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
                except httpx.HTTPError as error:
                    _check_refusal(error, site)
                    if pause_s == POLL_S:
                        log.warning("the node does not answer on port %d; waiting for it", site.runtime_port)
                    pause_s = min(2 * pause_s, BACK_OFF_S)
                else:
                    pause_s = POLL_S
                    if task.HasField("task") and task.token:
                        _serve(task.token, site_path, site, worker, status)
                time.sleep(pause_s)
    finally:
        worker.kill()
        tasks.close()
        status.remove()


def _serve(token: str, site_path: Path, site: DeployedSite, worker: Worker, status: StatusFile) -> None:
    """One request from the node's hands to the reply in them. A node that vanishes meanwhile is no error."""
    metrics: dict[str, float] = {}
    try:
        with _task(token, site) as client:
            message, context, _run, _bundle = pull_task_input(client)

            def push(reply: Message) -> None:
                push_message(client, reply, context)
                push_task_output(client, context, SubStatus.COMPLETED, "")

            try:
                reply = _answer(message, site_path, site, worker, status)
            except Stop:
                worker.kill()
                with suppress(Exception):  # a node that stops as well may be gone
                    push(_refusal(StoppedError(), message, site))
                raise
            push(reply)
            metrics = _metrics(reply)
    except httpx.HTTPError as error:
        log.warning("the node broke off (%s); if the coordinator asks again, it gets the stored answer", error)
    except Exception:
        log.exception("the request was lost between node and runner")
    status.waiting(metrics)


def _answer(message: Message, site_path: Path, site: DeployedSite, worker: Worker, status: StatusFile) -> Message:
    """The worker's reply, or a public sentence instead. The site file is read anew: an edited policy holds at once."""
    scalars = message.content.config_records.get(SCALARS, ConfigRecord()) if message.has_content() else ConfigRecord()
    run, round = scalars.get("run_id"), scalars.get("round")
    state: State = "training" if message.metadata.message_type == MessageType.TRAIN else "evaluating"
    status.working(state, run=run if isinstance(run, str) else None, round=round if isinstance(round, int) else None)
    log.info("%s: run %.40r, round %.10r", state, run, round)  # a stranger's text: no escape codes
    try:
        policy = read_deployed_site(site_path).policy
        reply = worker.ask(message, until_s=now_s() + allowed_s(scalars, policy))
    except AgiError as error:
        log.error("%s", error)
        reply = _refusal(error, message, site)
    log.info("answered%s", f": {reply.error.reason}" if reply.has_error() else "")
    return reply


def allowed_s(scalars: Mapping[str, object], policy: Policy) -> int:
    """The seconds that a request gets: what it asks for, at most what the site's policy allows."""
    asked = scalars.get("deadline_s")
    return min(asked, policy.max_deadline_s) if isinstance(asked, int) else policy.max_deadline_s


def _refusal(error: AgiError, message: Message, site: DeployedSite) -> Message:
    scalars = message.content.config_records.get(SCALARS, ConfigRecord()) if message.has_content() else ConfigRecord()
    refusal = refuse(error, asked=dict(scalars), site=site)
    return Message(Error(code=refusal.code, reason=refusal.reason), reply_to=message)


def _metrics(reply: Message) -> dict[str, float]:
    records = reply.content.metric_records if reply.has_content() else {}
    return {name: value for name, value in records.get(METRICS, {}).items() if isinstance(value, int | float)}


@contextmanager
def _task(token: str, site: DeployedSite) -> Iterator[RuntimeHttpClient]:
    """A connection for one task, with its heartbeat: after 60 s of silence the node gives up on it."""
    retry = RetryInvoker(
        lambda: exponential(max_delay=1), recoverable_exceptions=httpx.TransportError, max_tries=4, max_time=None
    )
    client = _connect(site, RuntimeTokenHttpInterceptor(token), retry)

    def beat() -> bool:
        try:
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.HTTPError as error:
            log.warning("the node does not hear the heartbeat (%s); the work goes on", error)
        return True

    heartbeat = HeartbeatSender(beat)
    heartbeat.start()
    try:
        yield client
    finally:
        heartbeat.stop()
        client.close()


def _connect(
    site: DeployedSite, credentials: ProtobufClientInterceptor, retry: RetryInvoker | None = None
) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=f"{HOST}:{site.runtime_port}",
        insecure=True,  # loopback
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="runner"), credentials],
        retry_invoker=retry,
    )


def _check_refusal(error: httpx.HTTPError, site: DeployedSite) -> None:
    """Raise RunError for an answer that waiting will not change."""
    if isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error:
        raise RunError(
            f"the node on port {site.runtime_port} refuses this runner (HTTP {error.response.status_code}): give both"
            " the same secret file, set both clocks by the same source, and start both again"
        ) from None


def _read_secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes()  # the node too takes the file's exact bytes
    except OSError as error:
        raise ConfigError(f"the secret file {path} cannot be read ({error.strerror}); check --secret-file") from None
    if not secret:
        raise ConfigError(f"the secret file {path} is empty; delete it and start the site again")
    return secret


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End soon whatever is going on: a node that hangs may hold up the farewell for `STOP_S` seconds and no longer."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    farewell = threading.Timer(STOP_S, os._exit, [1])
    farewell.daemon = True
    farewell.start()
    raise Stop


if __name__ == "__main__":
    sys.exit(main())
