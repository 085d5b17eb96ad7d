"""Sites by name: which Flower node is which site, and waiting until all that a run needs are there."""

import time
from collections.abc import Sequence

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from agi_core.errors import RunError
from agi_core.protocol import SCALARS

POLL_S = 1.0


def connected_sites(grid: Grid) -> dict[str, int]:
    """{site: node id}. The name is the one registered with the node's key; nodes without one (simulations) are asked.

    Raises:
        RunError: two nodes have the same name.
    """
    nodes = list(grid.get_nodes())
    names = {node.node_id: node.name for node in nodes if node.name}
    unnamed = [node.node_id for node in nodes if not node.name]
    for reply in (
        grid.send_and_receive([Message(RecordDict(), node, MessageType.QUERY) for node in unnamed]) if unnamed else ()
    ):
        if reply.has_content():
            names[reply.metadata.src_node_id] = str(reply.content.config_records[SCALARS]["site"])
    sites: dict[str, int] = {}
    for node_id, name in sorted(names.items()):
        if name in sites:
            raise RunError(f"two nodes call themselves {name}; every site needs its own name")
        sites[name] = node_id
    return sites


def wait_for_sites(grid: Grid, needed: Sequence[str], *, deadline_s: float) -> dict[str, int]:
    """The connected sites once all `needed` ones are among them.

    Raises:
        RunError: some are still missing at the deadline; the message names them.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        sites = connected_sites(grid)
        missing = sorted(set(needed) - set(sites))
        if not missing:
            return sites
        if time.monotonic() > deadline:
            raise RunError(
                f"waited {deadline_s:.0f} s for {', '.join(missing)}; connected: {', '.join(sorted(sites)) or 'none'}"
            )
        time.sleep(POLL_S)
