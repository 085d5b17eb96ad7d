"""What a site may make its own of a trained model, and what one subject or more gain at a hospital that took no part.

    python -m benchmarks.personal RUN [RUN ...]

The runs are finished ones of `simulations/run.py`, which differ in their seed; nothing of them is changed. Each way of
`personal` starts from a run's last model and is scored on the test subjects of the sites. At unseen sites the last
layer is solved from the first of the subjects in a stable order, or from others in turn, and scored on all that it did
not see. Intervals are 95 % Student t over the runs.
"""

import argparse
import dataclasses
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from agi_core.config.schema import Personal, RunConfig
from agi_core.data.cached_session import CachedSession
from agi_core.data.partition import stable_order
from agi_core.errors import AgiError
from agi_core.evaluation import evaluate
from agi_core.metrics import mean_over_subjects
from agi_core.network import Network
from agi_core.prediction import Predictor
from agi_core.readout import newcomers_readout, readout_statistics
from agi_core.ridge import solve_own
from agi_core.run import run_folder
from agi_core.run.checkpoint import load_weights, load_with_trained_layer
from agi_core.voxel_regression import AlignedRegression
from benchmarks.commit import commit
from benchmarks.results import interval
from client.site.opened import open_site
from simulations.baselines import SitesData, open_sites, with_own_weights

WAYS: tuple[Personal, ...] = ("head", "norms", "finetune")
COUNTS, TURNS = (1, 2, 5), 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--ways", default=",".join(WAYS), help="of personal, with head first (%(default)s)")
    arguments = parser.parse_args()
    runs, ways = arguments.runs, arguments.ways.split(",")
    sites: dict[str, list[dict[str, float]]] = defaultdict(list)  # of each run, {site: dB}
    gains: dict[int, list[list[Gain]]] = defaultdict(list)
    for run in runs:
        config, data = opened(run)
        network = Network(config, device=data.device)
        network.load(load_weights(run))
        trained = Network(config, device=data.device)
        trained.load(load_with_trained_layer(run))
        sites["global"].append({site: psnr_db(network, sessions) for site, sessions in data.test.items()})
        for way in ways:
            scores = with_own_weights(network, data, task=dataclasses.replace(config.task, personal=way))
            sites[way].append({site: score.psnr_db for site, score in scores.sites.items()})
        for count in COUNTS:
            found = [
                gain
                for sessions in data.unseen.values()
                for gain in adapted(network, sessions, count=count, trained=trained)
            ]
            gains[count] += [found] if found else []
    print(f"commit {commit()}; {', '.join(map(str, runs))}\n")
    print("| way | mean over the sites, dB | minus `head`, dB | worst site minus `head`, dB |\n|---|---|---|---|")
    for name, scored in sites.items():
        beside = [*zip(scored, sites["head"], strict=True)]
        less = [statistics.fmean(its[s] - head[s] for s in its) for its, head in beside]
        least = min(its[site] - head[site] for its, head in beside for site in its)
        means = interval([statistics.fmean(its.values()) for its in scored])
        print(f"| {name} | {means} | {interval(less)} | {least:+.2f} |")
    if any(gains.values()):
        print("\n| subjects at an unseen site | common layer, dB | own layer minus it | worst draw |", end="")
        print(" regression of its own minus it |\n" + "|---" * 5 + "|")
        for count, of_runs in gains.items():
            if of_runs:
                before, gain, regression = (
                    interval([statistics.fmean(its[n] for its in found) for found in of_runs]) for n in range(3)
                )
                least = min(found.own_layer for each in of_runs for found in each)
                print(f"| {count} | {before} | {gain} | {least:+.2f} | {regression} |")


def opened(run: Path) -> tuple[RunConfig, SitesData]:
    """A finished run's configuration, and the scans of its sites."""
    config = run_folder.open_existing(run)
    paths = {open_site(path).file.site: path for path in sorted((run / "sites").glob("*.yaml"))}
    return config, open_sites(config, paths)


class Gain(NamedTuple):
    """PSNR in dB of the common last layer, and what is gained over it."""

    common: float
    own_layer: float
    own_regression: float


def adapted(network: Network, sessions: Sequence[CachedSession], *, count: int, trained: Network) -> Iterator[Gain]:
    """What a last layer of `count` subjects gains on all others, and a cubic regression of the same subjects on their
    aligned sources; up to TURNS times, of other subjects in turn. Nothing where fewer than `count` + 1 subjects are
    there. `trained` has the last layer that training ended with, and the prior that the regression is shrunk to."""
    assert trained.prior is not None
    order = stable_order({session.subject_id for session in sessions})
    common = network.readout
    for start in range(0, min(TURNS * count, len(order) - count + 1), count) if len(order) > count else ():
        chosen = order[start : start + count]
        rest = [session for session in sessions if session.subject_id not in chosen]
        given = [session for session in sessions if session.subject_id in chosen]
        before = psnr_db(network, rest)
        statistics_of = readout_statistics(network, given, prior_alone=True)
        regression = AlignedRegression(network, solve_own([*statistics_of.values()], towards=trained.prior))
        network.set_readout(newcomers_readout([network, trained], [*readout_statistics(network, given).values()])[0])
        yield Gain(before, psnr_db(network, rest) - before, psnr_db(regression, rest) - before)
        network.set_readout(common)


def psnr_db(predictor: Predictor, sessions: Sequence[CachedSession]) -> float:
    """The mean over subjects."""
    scores = evaluate(predictor, [(session, None) for session in sessions])
    return mean_over_subjects(scores.values())["psnr_db"]


if __name__ == "__main__":
    try:
        main()
    except AgiError as error:
        sys.exit(str(error))
