"""Flower's loop between node and coordinator, where we changed it; the rest runs in tests/faults."""

import inspect
from functools import partial

from flwr.app import Message, RecordDict
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState
from requests_by_hand import as_message, small_task, training_request

from client.node import fetch_or_send


def test_an_answer_that_waits_is_sent_although_nothing_is_there_to_fetch() -> None:
    factory = ObjectStoreFactory()
    state = NodeStateFactory(factory).state()
    assert isinstance(state, InMemoryNodeState)
    unused = dict.fromkeys(("node_config", "get_run", "get_fab", "pull_object", "confirm_message_received"))
    turn = partial(
        fetch_or_send,
        state=state,
        object_store=factory.store(),
        receive=lambda: None,
        trusted_entities=None,
        **unused,
    )
    request = as_message(training_request(*small_task()))
    state.store_message(request)
    assert turn() is None

    reply = Message(RecordDict(), reply_to=request)
    reply.metadata.__dict__["_message_id"] = "2"
    state.store_message(reply)
    assert turn() == request.metadata.run_id
    assert state.get_messages_legacy(is_reply=True) == [reply]  # as the loop does when it sends
    assert turn() is None


def test_flowers_loop_is_the_one_that_was_changed() -> None:
    source = inspect.getsource(start_client_internal.start_client_internal)
    assert "run_id = _pull_and_store_message(" in source
    assert "if run_id is None:" in source
    assert "_push_messages(" in source
