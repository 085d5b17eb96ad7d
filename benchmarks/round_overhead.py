"""Seconds per round of a deployed federation whose sites have next to nothing to do: what the machinery costs.

    python benchmarks/round_overhead.py [--rounds 10]

A coordinator with TLS, node keys, a database and nginx before it, and three hospitals, all on this machine. The model
is tiny and trains one step, so a round is transport, waiting and aggregation. The target is a median of 7 s at most.
"""

import argparse
import itertools
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from agi_core.run.events import RoundFinished, RoundStarted
from benchmarks.deployed import SITES, coordinator, cpu_seconds, federate, gateway, hospital, our, running, timed_events


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds per round of a deployed federation with a trivial model.")
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as place, cpu_seconds() as samples, ExitStack() as stack:
        folder = Path(place)
        coordinator_dir = folder / "coordinator"
        port = stack.enter_context(coordinator(coordinator_dir))
        port = stack.enter_context(gateway(folder / "nginx", coordinator_dir, port))
        for site in SITES:
            site_path = hospital(folder, site, coordinator_dir, port)
            stack.enter_context(running(folder / f"{site}.log", our("client", "--site-file", str(site_path))))
        load = [os.getloadavg()[0]]
        run_dir = federate(coordinator_dir, "overhead", f"rounds={rounds}", "model.widths=[8,16]")
        events = timed_events(run_dir)
        load.append(os.getloadavg()[0])

    started = next(time for time, event in events if isinstance(event, RoundStarted))
    finished = [(time, event) for time, event in events if isinstance(event, RoundFinished)]
    ends = [started, *(time for time, _ in finished)]
    seconds = [end - begin for begin, end in itertools.pairwise(ends)]
    cpu_s = np.diff(np.interp(ends[1:], *np.transpose(samples)))
    work = [max(event.seconds.values()) for _, event in finished]
    print("| sites | rounds | seconds per round: median | smallest | largest | slowest site's work | CPU s | load |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {len(SITES)} | {len(seconds)} | {statistics.median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f}"
        f" | {statistics.median(work):.2f} | {np.median(cpu_s):.1f} | {load[0]:.1f} to {load[1]:.1f} |"
    )


if __name__ == "__main__":
    main()
