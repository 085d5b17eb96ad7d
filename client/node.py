"""`python -m client.node`: Flower's `flower-supernode`, with its own arguments, two of its faults mended, and shorter
pauses: it looks for a request every second, not every three, because a round waits for the last site to look.

Both faults are in the loop of flwr 1.41 that talks to the coordinator, and both lose a site for good, silently:

* An error that is not tried again (a TLS handshake that a firewall cuts, an answer like 500) ends the loop, but not the
  process: the thread of the Runtime API keeps it. Here the process ends, and whoever started it starts it again.
* A request that a killed coordinator left half delivered is answered, too, and that answer is sent in the turn of the
  next request, whose answer waits for the turn after it, and so on: each comes one request late. Here an answer that
  waits is sent when there is nothing to fetch.
"""

import os
import time
from typing import Any

from flwr.supernode import start_client_internal
from flwr.supernode.cli import flower_supernode
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

_fetch = start_client_internal._pull_and_store_message
PAUSE_S = 1.0


def fetch_or_send(*, state: InMemoryNodeState, **rest: Any) -> int:
    """The run of the next request, as Flower's own function; or of an answer that waits. The loop sends next in either
    case; it would pause where there is neither."""
    while True:
        run_id = _fetch(state=state, **rest)
        if run_id is None:
            run_id = run_of_waiting_answer(state)
        if run_id is not None:
            return run_id
        time.sleep(PAUSE_S)


def run_of_waiting_answer(state: InMemoryNodeState) -> int | None:
    with state.lock_msg_store:
        waiting = (entry.message.metadata for entry in state.msg_store.values() if not entry.is_retrieved)
        return next((metadata.run_id for metadata in waiting if metadata.reply_to_message_id), None)


if __name__ == "__main__":
    start_client_internal._pull_and_store_message = fetch_or_send  # type: ignore[assignment]
    flower_supernode()  # returns only when its loop has ended; a stop by signal ends the process in there
    os._exit(1)
