"""How long after its deadline a request ends where all sites are silent, and the SuperLink takes a while for each pull.

python -m benchmarks.silent_sites
"""

import argparse
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import patch

import numpy as np
from flwr.app import Message
from flwr.clientapp import ClientApp

from agi_core.config.load import load_config
from agi_core.protocol import TRAIN
from agi_core.run.event_log import EventLog
from benchmarks.commit import commit
from server import exchange
from simulations.local_grid import LocalGrid
from tests.support.requests_by_hand import KEY

PULL_S, DEADLINE_S = 0.3, 1


class Silent(LocalGrid):
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        time.sleep(PULL_S)
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=100, help="(%(default)s)")
    names = [f"s{number}" for number in range(parser.parse_args().sites)]
    overrides = {"federation.subjects": dict.fromkeys(names, 10), "federation.sites": names, "engine": "deployment"}
    config = load_config(None, overrides=overrides, assignments=[f"federation.deadline_s={DEADLINE_S}"])
    grid, nodes = Silent(ClientApp(), [{"site": name} for name in names]), {name: n + 2 for n, name in enumerate(names)}
    with tempfile.TemporaryDirectory() as folder, patch.object(exchange, "GRACE_S", 0.0):
        talk = exchange.Exchange(grid, EventLog(Path(folder)), config, run_id="run", key=KEY)
        request = talk.request(TRAIN, round=1, weights={"w": np.zeros(4, np.float32)})
        started = time.monotonic()
        talk.ask(nodes, request)
        print(f"commit {commit()}: {len(names)} silent sites, {PULL_S} s a pull, deadline {DEADLINE_S} s:", end=" ")
        print(f"{time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
