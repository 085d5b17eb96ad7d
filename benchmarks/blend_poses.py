"""What a blend gains where the images of its experts are brought into one pose.

    python -m benchmarks.blend_poses RUN [RUN ...] --registered DIR/ixi_like_registered

The runs are finished ones of `simulations/run.py` over a vocabulary, on scans where everybody holds everything and
sites offer parts of it; they differ in their seed, and nothing of them is changed. The experts of each blend are
compared, weighted and blended twice: as their images lie, and in one pose. Both are scored on the test subjects of the
sites that offer the sources and lack the target, beside the best single expert: on their scans, and on the same
scans acquired in one pose (with `--registered`: all but the first modality, in its pose). A target in a pose of its own
can be scored in one pose alone. A second table has the errors of the experts on all subjects who train nowhere, as
they lie, in one pose, and on scans acquired in one pose, and the weights that follow with the experts' distance there;
the last ones are the best. Intervals are 95 % Student t over runs.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from torch import Tensor

from agi_core.blend import Blend, Expert, blend_weights, pose_of
from agi_core.cell_plan import Plan
from agi_core.cells import folder_of, parse_vocabulary
from agi_core.data.cached_session import CachedSession
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans, Subject, discover
from agi_core.errors import AgiError
from agi_core.evaluation import disagreement, squared_error
from agi_core.experts import cell_task, pair_task
from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.network import Network
from agi_core.prediction import middle
from agi_core.run import run_folder
from agi_core.run.checkpoint import load_weights
from agi_core.scenario import Scenario, parse_scenario
from benchmarks.commit import commit
from benchmarks.personal import psnr_db
from benchmarks.results import interval
from benchmarks.target_pose import twin
from simulations.holders import complete_for, find_holders, plan_of, scored_at

STRIDE = 4  # of the slices on which experts are compared
WAYS = ("as they lie", "in one pose", "acquired in one pose")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--registered", type=Path, help="the scans of all modalities but the first, in its pose")
    arguments = parser.parse_args()
    rows: dict[tuple[Scenario, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in arguments.runs:
        study = Study(run, registered=arguments.registered)
        for cell, experts in study.plan.blends.items():
            for tested, scores in study.scores(cell, experts).items():
                for name, value in scores.items():
                    rows[cell, tested][name].append(value)
    names = ("best single expert", "as they lie", "in one pose")
    print(f"commit {commit()}; {', '.join(map(str, arguments.runs))}\n")
    print(f"| blend | tested | {' | '.join(names)} | in one pose minus as they lie | minus the best single |", end="")
    print(" first weight |\n" + "|---" * 8 + "|")
    for (cell, tested), found in rows.items():
        single, apart, together = (found[name] for name in names)
        gains = [[a - b for a, b in zip(together, other, strict=True)] for other in (apart, single)]
        weights = f"{interval(found['weight apart'])}, then {interval(found['weight together'])}"
        cells = [tested, *(interval(found[name]) for name in names), *map(interval, gains), weights]
        print(f"| {cell} | {' | '.join(cells)} |")
    if arguments.registered is not None:
        headings = " | ".join(f"{what} {name}" for name in WAYS for what in ("errors", "weight"))
        print(f"\n| run | blend | {headings} |\n" + "|---" * 8 + "|")
        for run in arguments.runs:
            study = Study(run, registered=arguments.registered)
            for cell, experts in study.plan.blends.items():
                print(f"| {run.name} | {cell} | {' | '.join(study.errors(cell, experts))} |", flush=True)


class Study:
    """A finished run, and the sessions that its blends are weighted and scored on."""

    def __init__(self, run_dir: Path, *, registered: Path | None) -> None:
        self.run_dir = run_dir
        self.config, self.everybody = find_holders(run_folder.open_existing(run_dir))
        self.plan: Plan = plan_of(self.config, self.everybody)
        self.vocabulary = parse_vocabulary(self.config.scenario)
        self.scans = {"as acquired": Scans.of(self.config.data)}
        if registered is not None:
            in_one_pose = twin(Path(str(self.config.data.dir)), registered, root=run_dir.parent / "twin")
            self.scans["acquired in one pose"] = Scans(in_one_pose, self.config.data.layout)
        self.tasks = {cell: run_folder.open_existing(folder_of(run_dir, cell)).task for cell in self.plan.trained}

    def network(self, cell: Scenario) -> Network:
        network = Network(self.tasks[cell])
        network.load(load_weights(folder_of(self.run_dir, cell)))
        return network

    def sessions(self, cell: Scenario, subjects: Sequence[Subject], *, scans: Scans) -> list[CachedSession]:
        task = self.tasks.get(cell) or cell_task([*self.tasks.values()][:1], cell)
        cache_dir = Path(self.config.data.cache_dir)
        return Preparation.of(task, scans, cache_dir=cache_dir, whole=True).open(subjects)

    def validation(self, cell: Scenario, sites: Sequence[str]) -> list[tuple[CachedSession, range]]:
        """Every few slices of the validation subjects of some sites."""
        complete = complete_for(cell, self.everybody)
        chosen = [
            complete[subject_id]
            for site in sites
            for subject_id in self.everybody.splits[site].validation
            if subject_id in complete
        ]
        return strided(self.sessions(cell, chosen, scans=self.scans["as acquired"]))

    def scores(self, cell: Scenario, experts: Sequence[Scenario]) -> Mapping[str, Mapping[str, float]]:
        """{scans: {PSNR in dB, and the weight of the first expert both ways}}"""
        networks = [self.network(expert) for expert in experts]
        tested = scored_at(cell, self.plan, self.everybody, complete=complete_for(cell, self.everybody))
        together = self.blend(cell, experts, networks, alignment=networks[0].pairs)
        for network in networks:
            network.on_reference = None
        apart = self.blend(cell, experts, networks, alignment=None)
        found = {}
        for name, scans in self.scans.items():
            there = {subject.id: subject for subject in discover(scans, cell.modalities).subjects}
            subjects = [there[subject.id] for subjects in tested.values() for subject in subjects]
            sessions = self.sessions(cell, subjects, scans=scans)
            singles = [psnr_db(Blend((one,), together.pose, None), sessions) for one in together.experts]
            found[name] = {
                "best single expert": max(singles),
                "as they lie": psnr_db(apart, sessions),
                "in one pose": psnr_db(together, sessions),
                "weight apart": apart.experts[0].weight,
                "weight together": together.experts[0].weight,
            }
        return found

    def errors(self, cell: Scenario, experts: Sequence[Scenario]) -> list[str]:
        """For each of WAYS the mean squared errors of two experts, times 1000, and the weight of the first that follows
        with their distance on scans acquired in one pose."""
        trained = {subject_id for split in self.everybody.splits.values() for subject_id in split.train}
        everybody = [subject for subjects in self.everybody.training.values() for subject in subjects]
        rest = [subject for subject in everybody if subject.id not in trained]
        networks = [self.network(expert) for expert in experts]
        told: dict[str, list[float]] = {}
        for name in ("in one pose", "as they lie"):
            told[name] = [
                mean(squared_error(network, strided(self.sessions(expert, rest, scans=self.scans["as acquired"]))))
                for expert, network in zip(experts, networks, strict=True)
            ]
            for network in networks:
                network.on_reference = None
        scans = self.scans["acquired in one pose"]
        there = {subject.id: subject for subject in discover(scans, cell.modalities).subjects}
        subjects = strided(self.sessions(cell, [there[subject.id] for subject in rest], scans=scans))
        one, other = (Blend((Expert.of(network, 1.0, sources=cell.sources),), 0, None) for network in networks)
        target = Target(networks[0].neighbours)
        told["acquired in one pose"] = [mean(disagreement(expert, target, subjects)) for expert in (one, other)]
        apart = mean(disagreement(one, other, subjects))
        found = []
        for name in WAYS:
            found.append(" and ".join(f"{1000 * error:.2f}" for error in told[name]))
            found.append(f"{blend_weights(told[name], {(0, 1): apart})[0]:.2f}")
        return found

    def blend(
        self,
        cell: Scenario,
        experts: Sequence[Scenario],
        networks: Sequence[Network],
        *,
        alignment: GroupAlignment | None,
    ) -> Blend:
        """Weighted by what its sites can measure."""
        errors = []
        for expert, network in zip(experts, networks, strict=True):
            errors.append(mean(squared_error(network, self.validation(expert, self.plan.trained[expert]))))
        apart: dict[tuple[int, int], float] = {}
        for i, j in combinations(range(len(experts)), 2):
            task = pair_task([self.tasks[experts[i]], self.tasks[experts[j]]], self.vocabulary)
            names = parse_scenario(task.scenario).modalities
            one, other = (
                Blend((Expert.of(networks[n], 1.0, sources=names),), names.index(networks[i].reference), alignment)
                for n in (i, j)
            )
            offering = [site for site, offered in self.plan.offers.items() if {*names} <= {*offered}]
            apart |= {(i, j): mean(disagreement(one, other, self.validation(parse_scenario(task.scenario), offering)))}
        weights = blend_weights(errors, apart)
        aligned = [self.tasks[expert].training.align_target for expert in experts]
        pose = pose_of(
            (network.reference, not moved, weight)
            for network, moved, weight in zip(networks, aligned, weights, strict=True)
        )
        parts = [Expert.of(net, weight, sources=cell.sources) for net, weight in zip(networks, weights, strict=True)]
        return Blend(tuple(parts), cell.sources.index(pose), alignment)


@dataclass(frozen=True)
class Target:
    """A `Predictor` that shows the target."""

    neighbours: int
    volumetric: bool = False

    def predict(self, modalities: Tensor) -> Tensor:
        return middle(modalities)[:, -1:]


def strided(sessions: Sequence[CachedSession]) -> list[tuple[CachedSession, range]]:
    return [(session, range(0, session.shape[0], STRIDE)) for session in sessions]


def mean(by_subject: Mapping[str, float]) -> float:
    return statistics.fmean(by_subject.values())


if __name__ == "__main__":
    try:
        main()
    except AgiError as error:
        sys.exit(str(error))
