"""The Runtime API of the node on this machine, from the runner's side.

The private Flower calls of the runner stand in this file, those of the node in `client/process/node.py`: Flower 1.41.
The bundle of code that comes with every task is dropped unread: no code but the hospital's own touches its data.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from flwr.app import Context, Message
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

from agi_core.errors import RunError

HOST = "127.0.0.1"
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"  # the one call that the secret signs
NodeError = httpx.HTTPError  # the node does not answer, or not well
log = logging.getLogger("client")


@dataclass(frozen=True)
class Task:
    """One request of the coordinator, and the way back for its reply."""

    message: Message
    _context: Context
    _client: RuntimeHttpClient

    def push(self, reply: Message) -> None:
        """Hand the reply to the node. Raises NodeError."""
        push_message(self._client, reply, self._context)
        push_task_output(self._client, self._context, SubStatus.COMPLETED, "")


class RuntimeApi:
    """The connection to the node on `port` of this machine.

    Args:
        secret: what node and runner share, in the exact bytes of its file.
    """

    def __init__(self, port: int, *, secret: bytes) -> None:
        self._port = port
        self._tasks = self._connect(SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={ACQUIRE}))

    def next_task(self) -> str | None:
        """The token of a task that waits; None when there is none.

        Raises:
            NodeError: the node does not answer, which may pass.
            RunError: it refuses this runner, which will not pass.
        """
        try:
            answer = self._tasks.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        except httpx.HTTPStatusError as error:
            if not error.response.is_client_error:
                raise
            raise RunError(
                f"the node on port {self._port} refuses this runner (HTTP {error.response.status_code}): give both"
                " the same secret file, set both clocks by the same source, and start both again"
            ) from None
        return answer.token if answer.HasField("task") and answer.token else None

    @contextmanager
    def task(self, token: str) -> Iterator[Task]:
        """The task, with a heartbeat within the block: after 60 s of silence the node gives up on it.

        Raises:
            NodeError: the node breaks off.
        """
        retry = RetryInvoker(
            lambda: exponential(max_delay=1), recoverable_exceptions=httpx.TransportError, max_tries=4, max_time=None
        )
        client = self._connect(RuntimeTokenHttpInterceptor(token), retry)

        def beat() -> bool:
            try:
                client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            except httpx.HTTPError as error:
                log.warning("the node does not hear the heartbeat (%s); the work goes on", error)
            return True

        heartbeat = HeartbeatSender(beat)
        heartbeat.start()
        try:
            message, context, _run, _bundle = pull_task_input(client)
            yield Task(message, context, client)
        finally:
            heartbeat.stop()
            client.close()

    def close(self) -> None:
        """End the connection."""
        self._tasks.close()

    def _connect(self, credentials: ProtobufClientInterceptor, retry: RetryInvoker | None = None) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=f"{HOST}:{self._port}",
            insecure=True,  # loopback
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="runner"), credentials],
            retry_invoker=retry,
        )
