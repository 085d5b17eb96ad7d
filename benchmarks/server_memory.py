"""Memory and time of the coordinator for one round of many sites: replies kept, judged and averaged.

    python -m benchmarks.server_memory
    python -m benchmarks.server_memory --aggregation median --sites 20 200

Each row is a process of its own. A reply is made, kept in the spool and forgotten, as `server.exchange` does it; then
the gate judges all of them, and the server takes its step. Memory is the largest resident size of the process, files
that are mapped included: the whole, and above what it was before the first reply.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from agi_core.config.load import load_config
from agi_core.protocol import Reply, Request, Weights, pack
from server.aggregation import RULES
from server.server_step import next_weights
from server.spool import Spool
from server.update_gate import judge_updates

SHAPES = {"a": (512, 512, 3, 3), "b": (512, 256, 3, 3), "c": (256, 512, 3, 3), "d": (256, 128, 3, 3)}  # 5.0 M


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sites", type=int, nargs="+", default=[20, 200], help="default: 20 and 200")
    parser.add_argument("--aggregation", choices=[*RULES], default="mean", help="default: mean")
    parser.add_argument("--alone", action="store_true", help="work here, for the first number of sites")
    arguments = parser.parse_args()
    if arguments.alone:
        print(*here(arguments.sites[0], arguments.aggregation))
        return
    print("| aggregation | sites | peak MiB | above the start | CPU s | ms per site |\n|---|---|---|---|---|---|")
    for sites in arguments.sites:
        options = ["--aggregation", arguments.aggregation, "--sites", str(sites), "--alone"]
        command = [sys.executable, "-m", "benchmarks.server_memory", *options]
        peak, above, seconds = map(
            float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        )
        row = f"| {arguments.aggregation} | {sites} | {peak:.0f} | {above:.0f} | {seconds:.1f} |"
        print(f"{row} {1000 * seconds / sites:.0f} |", flush=True)


def here(sites: int, aggregation: str) -> tuple[float, float, float]:
    """The peak of this process in MiB, how far it is above the start, CPU seconds of keeping, judging and averaging."""
    rng = np.random.default_rng(0)
    sent: Weights = {name: rng.random(shape, dtype=np.float32) for name, shape in SHAPES.items()}
    names = [f"site{number:03}" for number in range(sites)]
    overrides = {"federation.sites": names, "federation.aggregation": aggregation, "federation.transport": "float16"}
    config = load_config(None, overrides=overrides, assignments=[])
    request = Request(
        action="train",
        run_id="run",
        round=1,
        nonce="nonce",
        task="{}",
        subjects="",
        deadline_s=60,
        weights=pack(sent, "float16"),
    )
    before, seconds = peak_mib(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        spool, replies = Spool(Path(folder)), {}
        for number, site in enumerate(names):
            moved = {name: array + np.float32(1e-3 * (number + 1) / sites) for name, array in sent.items()}
            reply = Reply(
                run_id="run",
                round=1,
                nonce="nonce",
                num_examples=number + 1,
                metrics={},
                steps=1,
                weights=pack(moved, "float16"),
            )
            started = time.process_time()
            replies[site] = spool.keep(reply)
            seconds += time.process_time() - started
        started = time.process_time()
        verdict = judge_updates(replies, request, config=config)
        assert len(verdict.accepted) == sites
        next_weights(sent, [*verdict.accepted.values()], velocity={}, config=config.federation)
        seconds += time.process_time() - started
    return peak_mib(), peak_mib() - before, seconds


def peak_mib() -> float:
    """Of this process since it began (VmHWM, Linux)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
