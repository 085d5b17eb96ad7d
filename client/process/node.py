"""`python -m client.process.node` is Flower's `flower-supernode`, with its own arguments and five changes.

It looks for a request every second, not every three: a round waits for the last site to look.

It ends when its main thread ends, however that ends: the thread of the Runtime API would keep the process alive.

Three faults of flwr 1.41 are mended. All are in the part that talks to the coordinator, and all lose a site for good
without a word:

* An error that Flower does not try again ends the loop but not the process, for the same reason. A TLS handshake that a
  firewall cuts is such an error, and so is an answer like 500. Here the process ends, and whoever started it starts it
  again.
* A coordinator that is killed leaves a request half delivered. The node answers it, but sends that answer in the turn
  of the next request, and the next answer in the turn after it: each answer comes one request late. Here a waiting
  answer is sent when there is no request to fetch.
* An answer like 500 ends the thread that sends heartbeats, and nothing else: a coordinator whose disk was full for a
  moment takes the site for absent from then on. Here the process ends, as above.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

from flwr.supernode import start_client_internal
from flwr.supernode.cli import flower_supernode
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from agi_core.host.command_line import keep_files_private

_fetch = start_client_internal._pull_and_store_message
PAUSE_S = 1.0


def fetch_or_send(*, state: InMemoryNodeState, **rest: Any) -> int:
    """The run of the next request, as Flower's own function gives it, or else of an answer that waits to be sent.
    Flower's loop sends next in either case. While there is neither, this function waits."""
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


def end_process(failure: threading.ExceptHookArgs) -> None:
    """End the process, because a thread of it has failed."""
    try:
        threading.__excepthook__(failure)  # prints it
    finally:  # the disk of the log may be full
        os._exit(1)


def main() -> NoReturn:
    """Run Flower's node, and end the process with it: with Flower's exit code, or 1 after anything else."""
    keep_files_private()
    threading.excepthook = end_process
    start_client_internal._pull_and_store_message = fetch_or_send  # type: ignore[assignment]
    code = 1  # Flower's function returns only when its loop has ended
    try:
        flower_supernode()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
