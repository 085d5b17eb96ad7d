"""What a simulation gains from sites side by side: wall time of a short demo with each engine, in turns.

    python -m benchmarks.engines

Built-in data and its cache are made before the first run that counts. All engines train the same steps and end with the
same weights (`tests/integration/test_kill.py`).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.commit import commit

ENGINES = ("in-process", "processes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", default="2", help="of 40 steps at each site (%(default)s)")
    parser.add_argument("--turns", type=int, default=2, help="runs of each engine (%(default)s)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="further settings of every run")
    arguments = parser.parse_intermixed_args()
    command = [sys.executable, "simulations/run.py", "--clients", "5", *arguments.settings]
    with tempfile.TemporaryDirectory() as folder:
        seconds(command, Path(folder), "--rounds", "1", "training.local_steps=1")
        walls = {engine: list[float]() for engine in ENGINES}
        for _ in range(arguments.turns):
            for engine in ENGINES:
                walls[engine].append(seconds(command, Path(folder), "--rounds", arguments.rounds, f"engine={engine}"))
    print(f"commit {commit()}, {os.cpu_count()} cores, {arguments.rounds} rounds\n")
    print("| engine | wall s | ratio |\n|---|---|---|")
    for engine, wall in walls.items():
        print(f"| {engine} | {', '.join(f'{one:.0f}' for one in wall)} | {min(wall) / min(walls[ENGINES[0]]):.2f} |")


def seconds(command: list[str], folder: Path, *settings: str) -> float:
    """The wall time of one run in a new folder."""
    out = tempfile.mkdtemp(dir=folder)
    started = time.monotonic()
    subprocess.run([*command, *settings, "--out", f"{out}/run"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
