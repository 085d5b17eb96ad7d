"""A registered site that does not run our program: what it writes to the SuperLink is up to the test."""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import ConfigRecord
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import RecordDict
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

HEARTBEAT_S, LOOK_S = 30.0, 0.3
CHUNK_BYTES = 5 * 2**20


class HostileSite(threading.Thread):
    """It answers each request with the next of its attacks, and the rest with the last."""

    def __init__(self, address: str, *, ca_path: Path, key_path: Path, attacks: Sequence["Attack"]) -> None:
        super().__init__(daemon=True)
        self._attacks, self._over = [*attacks], threading.Event()
        private = load_ssh_private_key(key_path.read_bytes(), None)
        public = private.public_key()
        interceptors = [
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(private, public),  # type: ignore[arg-type]
        ]
        self._client = FleetHttpClient.from_server_address(
            address, False, ca_path.read_bytes(), interceptors=interceptors
        )
        activate = ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=HEARTBEAT_S)  # type: ignore[arg-type]
        self.node = Node(node_id=self._client.ActivateNode(activate).node_id)
        self.asked: list[Metadata] = []
        self.refused: list[tuple[str, int]] = []
        """(attack, HTTP status) of what the SuperLink did not let in."""

    def run(self) -> None:
        beaten = 0.0
        while not self._over.wait(LOOK_S):
            with contextlib.suppress(httpx.HTTPError):  # the run may be over
                if time.monotonic() - beaten > HEARTBEAT_S / 3:
                    beat = SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=HEARTBEAT_S)
                    self._client.SendNodeHeartbeat(beat)
                    beaten = time.monotonic()
                for message in self._client.PullMessages(PullMessagesRequest(node=self.node)).messages_list:
                    self.asked.append(message.metadata)
                    self._answer(message.metadata)

    def stop(self) -> None:
        self._over.set()
        self.join()
        self._client.close()

    def _answer(self, request: Metadata) -> None:
        attack = self._attacks.pop(0) if len(self._attacks) > 1 else self._attacks[0]
        try:
            attack(self, request)
        except httpx.HTTPStatusError as error:
            self.refused.append((attack.__name__, error.response.status_code))

    def begin(self, request: Metadata, tree: ObjectTree, **changed: int | str) -> str:
        """Announce a reply; the session in which its parts may come."""
        now = time.time()
        metadata = Metadata(
            run_id=request.run_id,
            message_id=tree.object_id,
            src_node_id=self.node.node_id,
            dst_node_id=request.src_node_id,
            reply_to_message_id=request.message_id,
            group_id=request.group_id,
            ttl=request.created_at + request.ttl - now,
            message_type=request.message_type,
            created_at=now,
        )
        metadata.MergeFrom(Metadata(**changed))  # type: ignore[arg-type]
        for name in (name for name, value in changed.items() if not value):
            metadata.ClearField(name)  # type: ignore[arg-type]
        answer = PushMessagesRequest(
            node=self.node,
            messages_list=[Message(metadata=metadata, content=RecordDict())],
            message_object_trees=[tree],
        )
        return self._client.PushMessages(answer).session_id

    def send(self, request: Metadata, session: str, content: bytes) -> None:
        """One part of a reply."""
        part = PushObjectRequest(
            node=self.node,
            run_id=request.run_id,
            session_id=session,
            object_id=name_of(content),
            object_content=content,
        )
        self._client.PushObject(part)


Attack = Callable[[HostileSite, Metadata], None]


def name_of(content: bytes) -> str:
    """Flower's name of an object."""
    return hashlib.sha256(content).hexdigest()


# the attacks


def silence(site: HostileSite, request: Metadata) -> None:
    """It is connected, and says nothing."""


def record_and_no_message(site: HostileSite, request: Metadata) -> None:
    """A few bytes that Flower can read, and that are no message."""
    content = ConfigRecord({"n": time.time()}).deflate()
    site.send(request, site.begin(request, ObjectTree(object_id=name_of(content))), content)


def announced_and_never_sent(site: HostileSite, request: Metadata) -> None:
    site.begin(request, ObjectTree(object_id=name_of(os.urandom(8))))


def hundreds_of_megabytes(site: HostileSite, request: Metadata) -> None:
    contents = [os.urandom(CHUNK_BYTES) for _ in range(8)]
    parts = [ObjectTree(object_id=name_of(content)) for content in contents]
    session = site.begin(request, ObjectTree(object_id=name_of(os.urandom(8)), children=parts))
    for content in contents:
        site.send(request, session, content)


def a_request_to_another(site: HostileSite, request: Metadata) -> None:
    """As if the coordinator had written it."""
    tree = ObjectTree(object_id=name_of(os.urandom(8)))
    site.begin(
        request, tree, src_node_id=request.src_node_id, dst_node_id=site.node.node_id + 1, reply_to_message_id=""
    )


def in_anothers_name(site: HostileSite, request: Metadata) -> None:
    site.begin(request, ObjectTree(object_id=name_of(os.urandom(8))), src_node_id=site.node.node_id + 1)
