"""The in-process engine: Flower's Grid interface over a ClientApp in this very process, one client after another.

The same ServerApp and ClientApp objects run here, on Ray and in deployment. All private Flower calls of this engine
stand in this file.
"""

import copy
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

RUN_ID = 1
SERVER_NODE_ID = 1
CRASHED = 1  # error code of an app that raised


class LocalGrid(Grid):
    """Delivers each message to the client app with its node's context when its answer is pulled: one answer is in
    memory at a time. One client works at a time, whoever pulls: they share a process and its networks."""

    def __init__(self, client_app: ClientApp, node_configs: Sequence[Mapping[str, str]]) -> None:
        self._app = client_app
        self._contexts = {
            node_id: Context(RUN_ID, node_id, node_config=dict(config), state=RecordDict(), run_config={})
            for node_id, config in enumerate(node_configs, start=SERVER_NODE_ID + 1)
        }
        self._pushed: dict[str, Message] = {}
        self._working = threading.Lock()
        self._run = Run.create_empty(run_id=RUN_ID)
        TaskIdentity.task_id, TaskIdentity.run_id = 1, RUN_ID  # Message() reads them,
        TaskIdentity.node_id = SERVER_NODE_ID  # and this

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(node_id=node_id, name=str(context.node_config["site"]))
            for node_id, context in self._contexts.items()
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message_id = uuid.uuid4().hex
            self._pushed[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        known = [message_id for message_id in message_ids if message_id in self._pushed]
        return (self._deliver(message_id) for message_id in known)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message_id: str) -> Message:
        with self._working:
            message = self._taken(message_id)
            return answer(self._app, message, self._contexts[message.metadata.dst_node_id])

    def _taken(self, message_id: str) -> Message:
        """A pushed message, once, as its receiver sees it."""
        message = copy.deepcopy(self._pushed.pop(message_id))  # the original shares a record with others
        message.metadata.__dict__["_message_id"] = message_id
        return message


def answer(client_app: ClientApp, message: Message, context: Context) -> Message:
    """A client's answer to a message that has just been taken."""
    TaskIdentity.task_id, TaskIdentity.run_id = 1, RUN_ID  # Message() reads them,
    TaskIdentity.node_id = context.node_id  # and this
    try:
        return client_app(message, context)
    except Exception as error:  # what a SuperNode does with an app that raises
        return Message(Error(code=CRASHED, reason=f"{type(error).__name__}: {error}"), reply_to=message)
    finally:
        TaskIdentity.node_id = SERVER_NODE_ID


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    node_configs: Sequence[Mapping[str, str]],
    run_config: Mapping[str, str],
) -> None:
    """Run the server app over a `LocalGrid` of one node per entry of `node_configs` (each names its "site")."""
    run_over(LocalGrid(client_app, node_configs), server_app, run_config=run_config)


def run_over(grid: LocalGrid, server_app: ServerApp, *, run_config: Mapping[str, str]) -> None:
    """Run the server app over a grid to its end."""
    server_app(grid, Context(RUN_ID, SERVER_NODE_ID, node_config={}, state=RecordDict(), run_config=dict(run_config)))
