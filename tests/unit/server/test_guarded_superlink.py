"""What a registered site may write. Flower's own handlers stand behind the guard in tests/faults/test_hostile_site.py;
here they let everything in."""

from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import (
    Message,
    Metadata,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError

from server import guarded_superlink
from server.guarded_superlink import SPARE_BYTES, SPARE_OBJECTS, Guard

NODE, OTHER = 7, 8
MODEL_BYTES = 2**20
STATE: Any = None


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Guard:
    """It has handed the request "q" to the node, with a model."""
    asked = PullMessagesResponse(
        messages_list=[Message(metadata=Metadata(message_id="q"))],
        message_object_trees=[ObjectTree(object_id="q", children=[ObjectTree(object_id="model")])],
    )
    model = PullObjectResponse(object_found=True, object_available=True, object_content=bytes(MODEL_BYTES))
    monkeypatch.setattr(guarded_superlink, "_pull_messages", lambda **_: asked)
    monkeypatch.setattr(guarded_superlink, "_pull_object", lambda **_: model)
    monkeypatch.setattr(guarded_superlink, "_push_messages", lambda **_: PushMessagesResponse(session_id="s"))
    monkeypatch.setattr(guarded_superlink, "_push_object", lambda **_: PushObjectResponse(stored=True))
    guard = Guard()
    guard.pull_messages(PullMessagesRequest(node=Node(node_id=NODE)), STATE, STATE)
    guard.pull_object(PullObjectRequest(node=Node(node_id=NODE), object_id="model"), STATE)
    return guard


def begin(
    guard: Guard,
    *,
    node: int = NODE,
    source: int = NODE,
    asked: str = "q",
    reply: str = "r",
    parts: int = 3,
    wrong: int = 0,
) -> None:
    """Announce a reply of so many parts, and of the request's model with so `wrong` ones."""
    children = [ObjectTree(object_id=str(part)) for part in range(parts)]
    tree = ObjectTree(object_id=reply, children=[*children, ObjectTree(object_id="model", children=children[:wrong])])
    metadata = Metadata(message_id=reply, src_node_id=source, reply_to_message_id=asked)
    request = PushMessagesRequest(
        node=Node(node_id=node), messages_list=[Message(metadata=metadata)], message_object_trees=[tree]
    )
    guard.push_messages(request, STATE)


def part(size: int, *, session: str = "s") -> PushObjectRequest:
    return PushObjectRequest(node=Node(node_id=NODE), session_id=session, object_content=bytes(size))


def send(guard: Guard, size: int) -> None:
    assert guard.push_object(part(size), STATE).stored


def test_one_reply_of_twice_the_requests_size_is_let_in(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A masked vector has 8 bytes where the request's weights have 4."""
    begin(guard)
    begin(guard)  # again, because an answer of the SuperLink was lost
    with monkeypatch.context() as full:
        full.setattr(guarded_superlink, "_push_object", lambda **_: PushObjectResponse(stored=False))
        guard.push_object(part(MODEL_BYTES), STATE)  # and again
    send(guard, 2 * MODEL_BYTES)
    send(guard, SPARE_BYTES)


@pytest.mark.parametrize("size", [2 * MODEL_BYTES + SPARE_BYTES + 1, 400 * 2**20])
def test_more_bytes_than_the_request_are_refused(guard: Guard, size: int) -> None:
    begin(guard)
    send(guard, SPARE_BYTES)
    begin(guard)  # does not begin to count anew
    with pytest.raises(FlowerError, match="more bytes than the request"):
        send(guard, size - SPARE_BYTES)
    with pytest.raises(FlowerError, match="more bytes than the request"):
        guard.push_object(part(1, session=""), STATE)  # as an older node would
    with pytest.raises(FlowerError, match="more bytes than the request"):
        guard.push_object(part(0, session="another"), STATE)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"asked": ""}, "no reply to a request"),  # a request of its own, to another hospital
        ({"asked": "another"}, "no reply to a request"),
        ({"node": OTHER, "source": OTHER}, "no reply to a request"),  # that another was given
        ({"source": OTHER}, "no reply to a request"),  # in another's name
        ({"parts": 3 + SPARE_OBJECTS}, "more parts than the request"),
    ],
)
def test_what_is_no_reply_is_refused(guard: Guard, changed: dict[str, Any], what: str) -> None:
    with pytest.raises(FlowerError, match=what):
        begin(guard, **changed)


def test_what_a_request_has_is_announced_with_no_other_parts(guard: Guard) -> None:
    """A model's piece that private training leaves as it was comes back from each honest site. Flower would refuse it
    from all who are later than one that gave it children."""
    with pytest.raises(FlowerError, match="other parts for what a request has"):
        begin(guard, wrong=1)


def test_a_second_reply_is_refused(guard: Guard) -> None:
    begin(guard)
    with pytest.raises(FlowerError, match="a second reply to one request"):
        begin(guard, reply="another")


def test_a_reply_that_is_begun_again_pushes_nobody_elses_out(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_superlink, "KEPT", 4)
    begin(guard)
    guard.pull_messages(PullMessagesRequest(node=Node(node_id=OTHER)), STATE, STATE)
    sessions = (PushMessagesResponse(session_id=f"of the other {number}") for number in range(9))
    monkeypatch.setattr(guarded_superlink, "_push_messages", lambda **_: next(sessions))
    for _ in range(9):
        begin(guard, node=OTHER, source=OTHER, reply="another")
    send(guard, SPARE_BYTES)
    with pytest.raises(FlowerError, match="more bytes than the request"):
        guard.push_object(part(0, session="of the other 7"), STATE)
