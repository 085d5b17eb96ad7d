"""`python -m server.guarded_superlink` is Flower's `flower-superlink`, with its own arguments and with limits on what a
registered site may write.

Flower 1.41 verifies which node calls, and then stores whatever it brings: a message in another's name, a request to
another hospital, a reply of any size. Here a node may only answer a request that it was given, once, in its own name,
and with `TIMES` as many bytes as the request had, and `SPARE_BYTES`. All else is refused before it is stored (403).
"""

import threading
from collections import OrderedDict
from typing import TypeVar

from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest, PushObjectResponse
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store import ObjectStore
from flwr.superlink.cli import flower_superlink
from flwr.superlink.servicer.fleet import fleet_handlers

from agi_core.host.command_line import keep_files_private

TIMES = 2  # a masked vector (`agi_core.secure_sum`) has 8 bytes where a weight has 4
SPARE_BYTES, SPARE_OBJECTS = 2**18, 16  # metrics, an error; and the objects that they are
KEPT = 2**14  # of each kind of thing that is remembered
K = TypeVar("K")
V = TypeVar("V")

_pull_messages, _push_messages = fleet_handlers.pull_messages, fleet_handlers.push_messages
_pull_object, _push_object = fleet_handlers.pull_object, fleet_handlers.push_object


class Guard:
    """The fleet's four handlers, with what they must remember from one call to the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # each call is a thread
        self._requests = OrderedDict[tuple[int, str], tuple[str, ...]]()  # {(node, request): its objects}
        self._bytes = OrderedDict[str, int]()  # {object: its size}
        self._replies = OrderedDict[tuple[int, str], str]()  # {(node, request): its reply}
        self._left = OrderedDict[str, int]()  # {reply: bytes that may still come}
        self._sessions = OrderedDict[str, str]()  # {session: the reply whose parts come in it}

    def pull_messages(self, request: PullMessagesRequest, state: LinkState, store: ObjectStore) -> PullMessagesResponse:
        """Note which request the node gets."""
        response = _pull_messages(request=request, state=state, store=store)
        with self._lock:
            for message, tree in zip(response.messages_list, response.message_object_trees, strict=True):
                ids = tuple(node.object_id for node in iterate_object_tree(tree))
                _keep(self._requests, (request.node.node_id, message.metadata.message_id), ids)
        return response

    def pull_object(self, request: PullObjectRequest, state: LinkState) -> PullObjectResponse:
        """Note the size of what the node gets."""
        response = _pull_object(request=request, state=state)
        with self._lock:
            if response.object_content:
                _keep(self._bytes, request.object_id, len(response.object_content))
        return response

    def push_messages(self, request: PushMessagesRequest, state: LinkState) -> PushMessagesResponse:
        """Let a reply in. Raises FlowerError where it is none, or another than the one that was begun."""
        node = request.node.node_id
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise _refused(node, "not one message")
        metadata, tree = request.messages_list[0].metadata, request.message_object_trees[0]
        asked, reply = (node, metadata.reply_to_message_id), metadata.message_id
        with self._lock:
            ids = self._requests.get(asked)
            if metadata.src_node_id != node or ids is None:
                raise _refused(node, "no reply to a request that it was given")
            if self._replies.get(asked, reply) != reply:
                raise _refused(node, "a second reply to one request")
            parts = [*iterate_object_tree(tree)]
            if tree.object_id != reply or len(parts) > TIMES * len(ids) + SPARE_OBJECTS:
                raise _refused(node, "a reply of more parts than the request")
            if any(part.children and part.object_id in self._bytes for part in parts):
                raise _refused(node, "other parts for what a request has")  # so that others could not send it back
            _keep(self._replies, asked, reply)
            if reply not in self._left:
                asked_bytes = sum(self._bytes.get(object_id, 0) for object_id in ids)
                _keep(self._left, reply, TIMES * asked_bytes + SPARE_BYTES)
        response = _push_messages(request=request, state=state)
        with self._lock:  # one session per reply: who begins again and again pushes out nobody else's
            for session in [session for session, its in self._sessions.items() if its == reply]:
                del self._sessions[session]
            _keep(self._sessions, response.session_id, reply)
        return response

    def push_object(self, request: PushObjectRequest, state: LinkState) -> PushObjectResponse:
        """Let a part of a reply in. Raises FlowerError where it is too much."""
        size, stored = len(request.object_content), False
        with self._lock:
            reply = self._sessions.get(request.session_id, "")
            if self._left.get(reply, -1) < size:  # of no reply not even nothing
                raise _refused(request.node.node_id, "a reply of more bytes than the request")
            self._left[reply] -= size
        try:
            response = _push_object(request=request, state=state)
            stored = response.stored
        finally:
            if not stored:  # it may be sent again
                with self._lock:
                    self._left[reply] += size
        return response


def _keep(kept: "OrderedDict[K, V]", key: K, value: V) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > KEPT:
        kept.popitem(last=False)


def _refused(node: int, what: str) -> FlowerError:
    """As Flower refuses a reply to a run that is over: an honest node, of whose request a restart knows nothing, goes
    on."""
    return FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, f"SuperNode {node} wrote {what}; refused")


if __name__ == "__main__":
    keep_files_private()
    guard = Guard()
    fleet_handlers.pull_messages, fleet_handlers.pull_object = guard.pull_messages, guard.pull_object
    fleet_handlers.push_messages, fleet_handlers.push_object = guard.push_messages, guard.push_object
    flower_superlink()
