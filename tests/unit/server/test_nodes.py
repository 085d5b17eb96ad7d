from collections.abc import Iterable

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo

from agi_core.errors import RunError
from agi_core.protocol import FAILED, SCALARS
from server.nodes import Nodes
from simulations.local_grid import LocalGrid


class Nameless(LocalGrid):
    """As Ray's nodes are."""

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node_id) for node_id in self.get_node_ids()]


class Telling(ClientApp):
    """Tells the name of its site, all but "shy", and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __call__(self, message: Message, context: Context) -> Message:
        self.calls += 1
        site = str(context.node_config["site"])
        if site == "shy":
            return Message(Error(FAILED, "no"), reply_to=message)
        return Message(RecordDict({SCALARS: ConfigRecord({"site": site})}), reply_to=message)


def configs(*sites: str) -> list[dict[str, str]]:
    return [{"site": site} for site in sites]


def test_a_registered_node_has_its_sites_name() -> None:
    app = Telling()
    assert Nodes(LocalGrid(app, configs("B", "A"))).connected() == {"B": 2, "A": 3}
    assert app.calls == 0


def test_a_node_without_a_name_is_asked_once() -> None:
    app = Telling()
    nodes = Nodes(Nameless(app, configs("B", "A")))
    assert nodes.connected() == nodes.connected() == {"B": 2, "A": 3}
    assert app.calls == 2


def test_a_node_that_does_not_say_its_name_is_no_site() -> None:
    assert Nodes(Nameless(Telling(), configs("shy", "A"))).connected() == {"A": 3}


@pytest.mark.parametrize("grid", [LocalGrid, Nameless])
def test_two_nodes_cannot_be_one_site(grid: type[LocalGrid]) -> None:
    with pytest.raises(RunError, match="two nodes call themselves A; every site needs its own name"):
        Nodes(grid(Telling(), configs("A", "A"))).connected()
