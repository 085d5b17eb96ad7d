"""What a last layer would gain that is solved from all sites' statistics, in place of the one that training ends with.

    python -m benchmarks.pooled_last_layer RUN [RUN ...]

The runs are finished ones of `simulations/run.py` without privacy; nothing of them is changed. The last layer of a
run's last model is solved from the statistics of its training subjects, each of which counts alike, as the prior is
before the first round (`server.common_prior`). No site of today tells such statistics. Scores are means of PSNR in dB:
over the sites that took no part, or where there are none over the training sites' test subjects.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean

from agi_core.errors import AgiError
from agi_core.network import Network
from agi_core.readout import readout_statistics
from agi_core.ridge import STRENGTH, Statistics
from agi_core.run.checkpoint import load_weights
from benchmarks.personal import opened, psnr_db
from benchmarks.results import commit, interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    runs = parser.parse_args().runs
    print(f"commit {commit()}\n\n| run | as trained, dB | solved, dB | gain, dB |\n|---|---|---|---|")
    gains = []
    for run in runs:
        trained, solved = scored(run)
        gains.append(solved - trained)
        print(f"| {run.name} | {trained:.2f} | {solved:.2f} | {gains[-1]:+.2f} |", flush=True)
    print(f"| all | | | {interval(gains)} |")


def scored(run: Path) -> tuple[float, float]:
    """With the last layer as it was trained, and as it is solved."""
    config, data = opened(run)
    network = Network(config, device=data.device)
    network.load(load_weights(run))
    sites = [*(data.unseen or data.test).values()]
    trained = fmean(psnr_db(network, sessions) for sessions in sites)
    of_sites = [readout_statistics(network, slices.sessions).values() for slices in data.training.values()]
    subjects = [statistics for its in of_sites for statistics in its]
    network.set_readout(Statistics.mean(subjects).solve(strength=STRENGTH, towards=network.readout))
    return trained, fmean(psnr_db(network, sessions) for sessions in sites)


if __name__ == "__main__":
    try:
        main()
    except AgiError as error:
        sys.exit(str(error))
