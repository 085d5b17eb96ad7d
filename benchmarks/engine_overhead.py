"""What the in-process engine adds to a round: its wall time less what the sites spent on validation and training.

    python benchmarks/engine_overhead.py runs/NAME [...]

Reads the events of finished runs; the rest is packing, copying, checking and averaging weights, and the checkpoint.
"""

import argparse
import statistics
from pathlib import Path

from agi_core.run.event_log import read_events
from agi_core.run.events import RoundFinished, RoundStarted
from agi_core.run.run_folder import open_existing


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds per round that are not the sites' own work.")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    print("| run | sites | rounds | site work per round, s | engine per round, s: median | largest |")
    print("|---|---|---|---|---|---|")
    for run_dir in parser.parse_args().runs:
        log = read_events(run_dir)
        started = {event.round: t_s for t_s, event in log if isinstance(event, RoundStarted)}
        finished = [(t_s, event) for t_s, event in log if isinstance(event, RoundFinished)]
        work = [sum(event.seconds.values()) for _, event in finished]
        extra = [t_s - started[event.round] - w for (t_s, event), w in zip(finished, work, strict=True)]
        sites = len(open_existing(run_dir).federation.sites)
        print(
            f"| {run_dir.name} | {sites} | {len(finished)} | {statistics.median(work):.1f}"
            f" | {statistics.median(extra):.2f} | {max(extra):.2f} |"
        )


if __name__ == "__main__":
    main()
