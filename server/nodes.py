"""The nodes of a Flower grid: which node is which site."""

from collections.abc import Sequence

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from agi_core.errors import RunError
from agi_core.protocol import SCALARS


class Nodes:
    """The nodes that are connected to a grid. A node has the name of its site, which was registered with its key. A
    node without a name (Ray's) is asked for it once."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._answered: dict[int, str] = {}  # names of the nodes that were asked

    def connected(self) -> dict[str, int]:
        """{site: node id}.

        Raises:
            RunError: two nodes have the same name.
        """
        nodes = list(self._grid.get_nodes())
        self._ask([node.node_id for node in nodes if not node.name and node.node_id not in self._answered])
        sites: dict[str, int] = {}
        for node in sorted(nodes, key=lambda node: node.node_id):
            name = node.name or self._answered.get(node.node_id)
            if name in sites:
                raise RunError(f"two nodes call themselves {name}; every site needs its own name")
            if name:
                sites[name] = node.node_id
        return sites

    def _ask(self, node_ids: Sequence[int]) -> None:
        if not node_ids:
            return
        for reply in self._grid.send_and_receive([Message(RecordDict(), node, MessageType.QUERY) for node in node_ids]):
            if reply.has_content():
                self._answered[reply.metadata.src_node_id] = str(reply.content.config_records[SCALARS]["site"])
