"""What the in-process engine adds to a round: its wall time less what the sites spent on validation and training.

    python benchmarks/engine_overhead.py runs/NAME [...]

Reads the events of finished runs; the rest is packing, copying, checking and averaging weights, and the checkpoint.
"""

import argparse
import statistics
from pathlib import Path

from agi_core.run.run_folder import open_existing, read_events


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds per round that are not the sites' own work.")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    print("| run | sites | rounds | site work per round, s | engine per round, s: median | largest |")
    print("|---|---|---|---|---|---|")
    for run_dir in parser.parse_args().runs:
        events = read_events(run_dir)
        started = {event["round"]: event["t_s"] for event in events if event["event"] == "round_started"}
        finished = [event for event in events if event["event"] == "round_finished"]
        work = [sum(event["seconds"].values()) for event in finished]
        extra = [event["t_s"] - started[event["round"]] - w for event, w in zip(finished, work, strict=True)]
        sites = len(open_existing(run_dir).federation.sites)
        print(
            f"| {run_dir.name} | {sites} | {len(finished)} | {statistics.median(work):.1f}"
            f" | {statistics.median(extra):.2f} | {max(extra):.2f} |"
        )


if __name__ == "__main__":
    main()
