"""The in-process engine: whose turn it is."""

import threading
from concurrent.futures import ThreadPoolExecutor

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from simulations.local_grid import LocalGrid


def test_one_client_works_at_a_time_whoever_pulls() -> None:
    second, met = threading.Event(), []

    class Meeting(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            if context.node_config["site"] == "A":
                met.append(second.wait(timeout=0.2))  # the other one comes meanwhile, if it may
            else:
                second.set()
            return Message(RecordDict(), reply_to=message)

    grid = LocalGrid(Meeting(), [{"site": "A"}, {"site": "B"}])
    ids = [*grid.push_messages([Message(RecordDict(), node, "train") for node in grid.get_node_ids()])]
    with ThreadPoolExecutor() as threads:
        answers = [*threads.map(lambda message_id: [*grid.pull_messages([message_id])], ids)]
    assert [len(some) for some in answers] == [1, 1]
    assert met == [False]
