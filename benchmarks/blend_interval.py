"""Whether the interval of a blend, which follows from those of its experts, covers what it promises.

    python -m benchmarks.blend_interval RUN [RUN ...]

The runs are finished ones of `simulations/run.py` over a vocabulary, on scans where everybody holds everything and
sites offer parts of it; they differ in their seed, and nothing of them is changed. The experts of each blend are
calibrated on all subjects who neither train nor test it. The interval of the blend is scored on the test subjects of
the sites that offer the sources and lack the target: the share of the head's voxels that it covers, and the expected
error beside the true one; both for its experts too. A target that training brings onto the reference is brought there
here. Intervals are 95 % Student t over runs.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from agi_core.blend import Blend
from agi_core.data.cached_session import CachedSession
from agi_core.errors import AgiError
from agi_core.evaluation import predict_session
from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.pair_alignment import moved_onto
from agi_core.prediction import Predictor, middle
from agi_core.run_models import RunModels
from agi_core.scenario import Scenario
from agi_core.uncertainty import Interval, WithError, calibrate, sample
from benchmarks.blend_poses import Study
from benchmarks.commit import commit
from benchmarks.results import interval
from simulations.holders import complete_for, scored_at


class Doubt(NamedTuple):
    """Means over the test subjects of one run: the share that is covered, and expected over true absolute error."""

    factor: float
    covered: float
    expected_over_true: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    arguments = parser.parse_args()
    rows: dict[str, list[Doubt]] = defaultdict(list)
    for run in arguments.runs:
        study = Study(run, registered=None)
        for cell in study.plan.blends:
            for name, doubt in doubts(study, cell):
                rows[name].append(doubt)
    print(f"commit {commit()}; {', '.join(map(str, arguments.runs))}\n")
    print("| model | factor | covered | expected over true error |\n|---|---|---|---|")
    for name, found in rows.items():
        print(f"| {name} | {' | '.join(interval(values) for values in zip(*found, strict=True))} |")


def doubts(study: Study, cell: Scenario) -> Iterator[tuple[str, Doubt]]:
    """Of a blend, then of its experts, each on the subjects that test the blend."""
    complete = complete_for(cell, study.everybody)
    at_sites = scored_at(cell, study.plan, study.everybody, complete=complete)
    tested = [subject for subjects in at_sites.values() for subject in subjects]
    told = {subject.id for subject in tested}
    told |= {subject_id for split in study.everybody.splits.values() for subject_id in split.train}
    rest = [subject for subject_id, subject in sorted(complete.items()) if subject_id not in told]
    sessions_of = partial(study.sessions, scans=study.scans["as acquired"])
    weights = RunModels.of(study.run_dir).blends[cell]
    networks, doubted, intervals = [study.network(expert) for expert in weights], [], []
    for network in networks:
        errors, _ = calibrate([sample(network, sessions_of(network.scenario, [subject])) for subject in rest])
        doubted.append(WithError(network, errors.layer))
        intervals.append(errors.interval)
    blend = Blend.of([*zip(networks, weights.values(), strict=True)], sources=cell.sources)
    pose = cell.sources[blend.pose]
    there = any(network.reference == pose and network.on_reference is None for network in networks)
    alignment = None if there else networks[0].pairs
    factor = Interval.of_blend(intervals).factor
    sessions = sessions_of(cell, tested)
    yield f"{cell}, a blend", scored(blend.made_by(doubted), factor, sessions, alignment=alignment, pose=blend.pose)
    for network, predictor, its in zip(networks, doubted, intervals, strict=True):
        alignment = None if network.on_reference is None else network.pairs
        own, sessions = network.scenario, sessions_of(network.scenario, tested)
        pose_of_own = own.sources.index(network.reference)
        yield f"{own} in it", scored(predictor, its.factor, sessions, alignment=alignment, pose=pose_of_own)


def scored(
    predictor: Predictor,
    factor: float,
    sessions: Sequence[CachedSession],
    *,
    alignment: GroupAlignment | None,
    pose: int,
) -> Doubt:
    """Args:
    predictor: with its expected error as a second channel.
    alignment: what brings the target onto source number `pose`; None: it lies there.
    """
    covered, expected, true = [], [], []
    for session in sessions:
        errors, foretold = [], []
        for both, batch in predict_session(predictor, session):
            sources, target = middle(batch.sources), batch.target
            counted = batch.foreground & (sources != 0).any(dim=1, keepdim=True)
            if alignment is not None:
                pair = torch.cat([sources[:, pose : pose + 1], target], dim=1)
                target, imaged = moved_onto(alignment, pair, target)
                counted &= imaged
            errors.append((both[:, :1] - target).abs()[counted])
            foretold.append(both[:, 1:][counted])
        error, foreseen = torch.cat(errors).double(), torch.cat(foretold).double()
        covered.append(float((error <= factor * foreseen).double().mean()))
        expected.append(float(foreseen.mean()))
        true.append(float(error.mean()))
    return Doubt(factor, statistics.fmean(covered), statistics.fmean(expected) / statistics.fmean(true))


if __name__ == "__main__":
    try:
        main()
    except AgiError as error:
        sys.exit(str(error))
