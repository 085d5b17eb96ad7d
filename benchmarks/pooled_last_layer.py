"""What the last layer that a run solves for all sites gains over the one that training ended with.

    python -m benchmarks.pooled_last_layer RUN [RUN ...]

The runs are finished ones of `simulations/run.py` with `personal=head` and without privacy (`server.last_layer`);
nothing of them is changed. Each run keeps the weights of the layer that training ended with. Scores are means of PSNR
in dB: over the sites that took no part, or where there are none over the training sites' test subjects. Validation is
what the run itself went by.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean

from agi_core.errors import AgiError
from agi_core.network import Network
from agi_core.run.checkpoint import load_weights, load_with_trained_layer
from agi_core.run.event_log import events_of
from agi_core.run.events import LastLayerSolved
from benchmarks.commit import commit
from benchmarks.personal import opened, psnr_db
from benchmarks.results import interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    runs = parser.parse_args().runs
    print(
        f"commit {commit()}\n\n| run | validation, dB | as trained, dB | solved, dB | gain, dB |\n|---|---|---|---|---|"
    )
    gains = []
    for run in runs:
        solved = events_of(run, LastLayerSolved)[-1]
        if solved.why:
            print(f"| {run.name} | {solved.said} | | | |", flush=True)
            gains.append(0.0)
            continue
        trained_db, solved_db = scored(run)
        validation = f"{fmean(solved.gains.values()):+.2f}" if solved.gains else "none"
        gains.append(solved_db - trained_db)
        print(f"| {run.name} | {validation} | {trained_db:.2f} | {solved_db:.2f} | {gains[-1]:+.2f} |", flush=True)
    print(f"| all | | | | {interval(gains)} |")


def scored(run: Path) -> tuple[float, float]:
    """With the last layer that training ended with, and with the solved one."""
    config, data = opened(run)
    sites = [*(data.unseen or data.test).values()]
    network, scores = Network(config, device=data.device), []
    for weights in (load_with_trained_layer(run), load_weights(run)):
        network.load(weights)
        scores.append(fmean(psnr_db(network, sessions) for sessions in sites))
    return scores[0], scores[1]


if __name__ == "__main__":
    try:
        main()
    except AgiError as error:
        sys.exit(str(error))
