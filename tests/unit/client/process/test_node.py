"""Flower's loop between node and coordinator, where we changed it; the rest runs in tests/faults."""

import inspect
import subprocess
import sys
from functools import partial

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from client.process import node
from tests.support.requests_by_hand import as_message, small_task, training_request


def test_an_answer_that_waits_is_sent_although_nothing_is_there_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "PAUSE_S", 0.0)
    factory = ObjectStoreFactory()
    state = NodeStateFactory(factory).state()
    assert isinstance(state, InMemoryNodeState)
    request = as_message(training_request(*small_task()))
    state.store_message(request)
    reply = Message(RecordDict(), reply_to=request)
    reply.metadata.__dict__["_message_id"] = "2"
    looks: list[int] = []

    def receive() -> None:
        """Nothing, for ever; at the third look the runner has put its answer down, and at the sixth it is enough."""
        looks.append(1)
        if len(looks) == 3:
            state.store_message(reply)
        if len(looks) == 6:
            raise ConnectionError

    unused = dict.fromkeys(("node_config", "get_run", "get_fab", "pull_object", "confirm_message_received"))
    turn = partial(
        node.fetch_or_send,
        state=state,
        object_store=factory.store(),
        receive=receive,
        trusted_entities=None,
        **unused,
    )
    assert turn() == request.metadata.run_id
    assert len(looks) == 3
    assert state.get_messages_legacy(is_reply=True) == [reply]  # as the loop does when it sends
    with pytest.raises(ConnectionError):
        turn()


def test_flowers_loop_is_the_one_that_was_changed() -> None:
    source = inspect.getsource(start_client_internal.start_client_internal)
    assert "run_id = _pull_and_store_message(" in source
    assert "if run_id is None:" in source
    assert "_push_messages(" in source


@pytest.mark.parametrize(
    ("end", "code", "said"), [("1 / 0", 1, "ZeroDivisionError"), ("sys.exit(3)", 3, ""), ("pass", 1, "")]
)
def test_the_process_ends_when_the_node_does(end: str, code: int, said: str) -> None:
    """However it ends; the thread stands for that of the Runtime API, which goes on."""
    program = (
        "import sys, threading, client.process.node as node\n"
        "def flower_supernode():\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        f"    {end}\n"
        "node.flower_supernode = flower_supernode\n"
        "node.main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == code
    assert said in ended.stderr


def test_a_thread_that_fails_ends_the_process() -> None:
    """The heartbeats ended with one 500 of the coordinator, and the site was offline for good."""
    program = (
        "import threading, client.process.node as node; threading.excepthook = node.end_process;"
        "threading.Thread(target=lambda: 1 / 0).start(); threading.Event().wait()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
