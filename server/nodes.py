"""The nodes of a Flower grid, by site: which node is which site, and waiting until enough sites are connected."""

import time
from collections.abc import Callable, Sequence

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from agi_core.errors import RunError
from agi_core.protocol import SCALARS

POLL_S = 0.5


class Nodes:
    """The nodes that are connected to a grid. A node has the name of its site, which was registered with its key; a
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

    def wait_for(
        self, wanted: Sequence[str], *, enough: int, limit_s: float, on_wait: Callable[[list[str]], None]
    ) -> dict[str, int]:
        """{site: node id} of the wanted sites that are connected: as soon as `enough` of them are, at the latest after
        `limit_s`. `on_wait` hears which are missing, whenever that changes."""
        deadline = time.monotonic() + limit_s
        told: list[str] = []
        while True:
            connected = self.connected()
            there = {site: connected[site] for site in wanted if site in connected}
            missing = sorted(set(wanted) - set(there))
            if len(there) >= enough or time.monotonic() > deadline:
                return there
            if missing != told:
                on_wait(missing)
                told = missing
            time.sleep(POLL_S)
