"""What the cells of an any-to-any run should share, measured at equal steps per cell.

    python -m benchmarks.cells --data DIR/ixi_like --registered DIR/ixi_like_registered --seeds 0,1,2 --by random

Sites hold parts of the vocabulary; what they lack is hidden in training and kept for scoring. Every trained cell gets
`--steps` in all, divided among its holders and rounds, whatever it shares:

    cubic        each cell's voxel regression at its holders
    cubic bound  the same where all sites hold all
    zero fill    one network, zeros for what is absent, averaged over all sites
    shared       one network with a stem per modality and a head per target, each averaged over its holders
    trunk        that network trained with half of the steps, then a copy of it per cell with the other half
    experts      a network per cell
    best single  for each cell the best model that any site has alone, as the test subjects tell
    bound        a network per cell, trained where all sites hold all and give their scans away

With `--missing` such a share of the subjects lack one modality of their site, drawn at random, and train only the cells
that they can. With `--tested` all subjects of that folder test, and those who would have tested at their site do not.

A cell that no site can train is a blend of those that are, but in the shared networks, which are asked for it: the
blend has the least variance by the errors at the holders and the disagreement where the sources are. Every network
corrects its cell's cubic (`--prior none`: makes the target by itself). Without `--data`, built-in data is made.

With `--last-layer solved` the networks of one cell (experts, best single, bound) end as those of a run do: with a last
layer that is solved from the statistics of those who trained them, where the median of them validates no worse with it.
The weights are the same, so what was trained is not trained again.

Each round of each training is kept under `--out`, so the command can be ended and started again at any time. One seed
of all variants takes 9,200 steps and their scores: about 20 minutes of CPU at one thread. A seed deals the subjects,
draws the weights and the crops. By hospital, sites get hospitals in the order of their names.
"""

import argparse
import hashlib
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agi_core.blend import Blend, Expert, blend_weights
from agi_core.cells import parse_vocabulary
from agi_core.config.load import load_config
from agi_core.config.schema import Task
from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import Batch, TrainingSlices
from agi_core.data.phantom.built_in import SIMULATED, with_built_in_data
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans, Subject, discover
from agi_core.evaluation import evaluate, predict_session
from agi_core.host import atomic
from agi_core.network import Network
from agi_core.prediction import Predictor
from agi_core.readout import readout_statistics
from agi_core.ridge import Statistics
from agi_core.scenario import Scenario
from agi_core.voxel_regression import VoxelRegression
from benchmarks.cells_federation import Member, federate
from benchmarks.cells_network import AnyToAny, CellOf
from benchmarks.cells_report import Result, tables
from benchmarks.cells_sites import Site, deal
from benchmarks.target_pose import twin
from server.common_prior import common_solution

SETTINGS = ["grid.crop=[64,64]", "model.conv=plain", "model.alignment=none", "model.neighbours=0", "model.stem=8"]
SETTINGS += ["personal=none"]
VARIANTS = ("cubic", "cubic bound", "zero fill", "shared", "trunk", "experts", "best single", "bound")
Parts = Mapping[str, Sequence[str]]  # {name: the subjects who train there}
MOST_COMPARED = 6  # subjects, of a site, on whom experts are compared


@dataclass(frozen=True)
class Settings:
    """All that decides a result but the seed."""

    data: str
    registered: str | None
    tested: str | None
    layout: str
    vocabulary: str
    sites: str
    missing: float
    by: str
    steps: int
    rounds: int
    batch: int
    prior: str
    model: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="scans of subjects with all modalities (built-in data)")
    parser.add_argument("--registered", type=Path, help="all but the first modality, in its pose: the twin is used")
    parser.add_argument("--tested", type=Path, help="scans that test, in place of a part of --data")
    parser.add_argument("--layout", default="ixi")
    parser.add_argument("--vocabulary", default="T1,T2,PD:any")
    parser.add_argument("--sites", default="T1,T2;T1,PD;T2,PD", help="modalities of each; *4: with 4 subjects alone")
    parser.add_argument("--missing", type=float, default=0.0, help="share of subjects who lack a modality (0)")
    parser.add_argument("--by", choices=("hospital", "random"), default="random", help="how subjects are dealt")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=280, help="of each cell, in all (%(default)s)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prior", choices=("cubic", "none"), default="cubic")
    parser.add_argument("--last-layer", choices=("trained", "solved"), default="trained")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("runs/cells"))
    parser.add_argument("model", nargs="*", metavar="key=value", help="more settings of the networks")
    given = vars(parser.parse_args(argv))
    torch.set_num_threads(1)
    out, seeds, variants = given.pop("out"), given.pop("seeds").split(","), given.pop("variants").split(",")
    solved = given.pop("last_layer") == "solved"
    given["model"] = tuple(given["model"])
    given |= {name: given[name] and str(given[name]) for name in ("registered", "tested")}
    if given["data"] is None:
        built_in = load_config(None, overrides={"data.layout": given["layout"]}, assignments=[])
        given["data"] = with_built_in_data(built_in, SIMULATED, work_dir=out).data.dir
    settings = Settings(**given | {"data": str(given["data"])})
    results = [measure(Study(settings, int(seed), out=out, solved=solved), variants) for seed in seeds]
    text = f"`python -m benchmarks.cells {' '.join(argv or sys.argv[1:])}`\n\n" + tables(results)
    atomic.write_text(folder_of(settings, out) / f"tables{' solved' if solved else ''}.md", text)
    print(text)
    return 0


def measure(study: "Study", variants: Sequence[str]) -> Result:
    """Train and score the variants that are not kept yet."""
    scores, ending = {}, " solved" if study.solved else ""
    for name in (name for name in variants if name != "best single"):
        scores[name] = kept(study.dir / f"{name}{ending}.json", partial(study.scores, name))
        print(f"seed {study.seed}: {name}", flush=True)
    singles = kept(study.dir / f"singles{ending}.json", study.singles) if "best single" in variants else {}
    return Result(study.vocabulary, study.sites, scores, singles)


class Study:
    """One dealing of the subjects to sites, and all trainings on it.

    Attributes:
        trained: the cells that some site can train.
        solved: whether the networks of one cell end with a solved last layer.
    """

    def __init__(self, settings: Settings, seed: int, *, out: Path, solved: bool) -> None:
        self.settings, self.seed, self.solved = settings, seed, solved
        self.vocabulary = parse_vocabulary(settings.vocabulary)
        self.dir, self.cache_dir = folder_of(settings, out) / f"seed-{seed}", out / "cache"
        self.subjects: dict[str, tuple[Scans, Subject]] = {}
        data_dir = Path(settings.data)
        if settings.registered is not None:
            data_dir = twin(data_dir, Path(settings.registered), root=out / "twin")
        found = self._discover(data_dir)
        self.sites = deal(found, settings.sites, by=settings.by, missing=settings.missing, seed=seed)
        self.tests = [subject_id for site in self.sites for subject_id in site.test]
        if settings.tested is not None:
            self.sites = tuple(replace(site, test=()) for site in self.sites)
            self.tests = [subject.id for subject in self._discover(Path(settings.tested))]
        self.trained = [cell for cell in self.vocabulary.cells if self.holders(cell)]
        assignments = [*SETTINGS, f"training.batch_size={settings.batch}", f"model.prior={settings.prior}"]
        assignments += [f"scenario='{self.trained[0]}'", *settings.model]
        self.config = load_config(None, overrides={"seed": seed}, assignments=assignments)

    def _discover(self, data_dir: Path) -> tuple[Subject, ...]:
        scans = Scans(data_dir, self.settings.layout)
        found = discover(scans, self.vocabulary.modalities).subjects
        if both := self.subjects.keys() & {subject.id for subject in found}:
            raise SystemExit(f"{', '.join(sorted(both))}: in both folders; those who test must not train")
        self.subjects |= {subject.id: (scans, subject) for subject in found}
        return found

    def holders(self, cell: Scenario) -> list[Site]:
        return [site for site in self.sites if site.trains(cell)]

    def held(self, cell: Scenario) -> Parts:
        """Who trains a cell at each of its holders."""
        return {site.name: site.training(cell) for site in self.holders(cell)}

    def pooled(self) -> Parts:
        """All who train, at one place and with all modalities."""
        return {"bound": [subject_id for site in self.sites for subject_id in site.train]}

    def task(self, cell: Scenario, *, share: float = 1.0) -> Task:
        """The task of a cell, over a share of the rounds."""
        return replace(self.config.task, scenario=str(cell), rounds=max(1, round(share * self.settings.rounds)))

    @cache  # noqa: B019  a study lives as long as the program
    def session(self, cell: Scenario, subject_id: str, *, whole: bool) -> CachedSession:
        scans, subject = self.subjects[subject_id]
        return Preparation.of(self.task(cell), scans, cache_dir=self.cache_dir, whole=whole).open([subject])[0]

    def sessions(self, cell: Scenario, subject_ids: Sequence[str], *, whole: bool = True) -> list[CachedSession]:
        return [self.session(cell, subject_id, whole=whole) for subject_id in subject_ids]

    def slices(self, cell: Scenario, subject_ids: Sequence[str]) -> TrainingSlices:
        return TrainingSlices.of(self.task(cell), self.sessions(cell, subject_ids, whole=False))

    def predictors(self, variant: str) -> dict[Scenario, Predictor]:
        """One for each cell."""
        match variant:
            case "cubic":
                return self.with_blends({cell: self.cubic(cell, self.held(cell)) for cell in self.trained})
            case "cubic bound":
                return {cell: self.cubic(cell, self.pooled()) for cell in self.vocabulary.cells}
            case "zero fill" | "shared":
                network = self.shared(variant, stems=variant == "shared")
                return {cell: CellOf(network, cell) for cell in self.vocabulary.cells}
            case "trunk":
                return self.with_blends({cell: self.from_trunk(cell) for cell in self.trained})
            case "experts":
                return self.with_blends({cell: self.expert(cell, self.held(cell)) for cell in self.trained})
            case "bound":
                return {cell: self.expert(cell, self.pooled()) for cell in self.vocabulary.cells}
            case _:
                raise SystemExit(f"no variant is called {variant}; there are {', '.join(VARIANTS)}")

    def scores(self, variant: str) -> dict[str, dict[str, tuple[float, float]]]:
        """{cell: {test subject: (PSNR in dB, SSIM)}}"""
        return {str(cell): self._score(predictor, cell) for cell, predictor in self.predictors(variant).items()}

    def singles(self) -> dict[str, dict[str, tuple[float, float]]]:
        """The same of what each site trains alone, {site/cell}."""
        return {
            f"{site.name}/{cell}": self._score(self.expert(cell, {site.name: site.training(cell)}), cell)
            for cell in self.trained
            for site in self.holders(cell)
        }

    def _score(self, predictor: Predictor, cell: Scenario) -> dict[str, tuple[float, float]]:
        scores = evaluate(predictor, [(session, None) for session in self.sessions(cell, self.tests)])
        return {subject_id: (row["psnr_db"], row["ssim"]) for subject_id, row in scores.items()}

    def cubic(self, cell: Scenario, parts: Parts) -> VoxelRegression:
        """The regression of a cell over the training subjects of all parts."""
        path = self.dir / f"cubic-{'+'.join(parts)}-{stem_of(cell)}.json"

        def fit() -> list[float]:
            subject_ids = [subject_id for part in parts.values() for subject_id in part]
            return [*map(float, VoxelRegression.fit(self.sessions(cell, subject_ids, whole=False)).coefficients)]

        return VoxelRegression(np.array(kept(path, fit)))

    def expert(self, cell: Scenario, parts: Parts) -> Network:
        """A network for one cell, trained at each part and averaged."""
        task = self.task(cell)
        network = Network(task)
        if task.model.prior == "cubic":
            network.set_prior(self.cubic(cell, parts).coefficients)
        members = [
            Member(
                name=part,
                draw=self.slices(cell, subject_ids).draw,
                steps=max(1, round(self.settings.steps / task.rounds / len(parts))),
                subjects=len(subject_ids),
                cells=frozenset({cell}),
            )
            for part, subject_ids in parts.items()
        ]
        path = self.dir / f"expert-{'+'.join(parts)}-{stem_of(cell)}.safetensors"
        federate(network.module, members, task=task, path=path)
        if self.solved:
            network.set_readout(np.array(kept(path.with_suffix(".json"), partial(self._readout, network, cell, parts))))
        return network

    def _readout(self, network: Network, cell: Scenario, parts: Parts) -> list[float]:
        """The last layer that a run ends with (`server.last_layer`): solved from all parts, or the trained one."""
        told = {}
        for part, subject_ids in parts.items():
            found = readout_statistics(network, self.sessions(cell, subject_ids, whole=False))
            told[part] = Statistics.mean([*found.values()]), len(found)
        validating = {site.name: site.validating(cell) for site in self.sites}
        everybody = [subject_id for site in self.sites for subject_id in site.validation]
        tests = [validating.get(part) or everybody for part in parts]
        trained = network.readout
        before = [self._validated(network, cell, subject_ids) for subject_ids in tests]
        layer, _ = common_solution(told, federation=self.config.federation, towards=trained)
        network.set_readout(layer)
        gains = [self._validated(network, cell, ids) - was for ids, was in zip(tests, before, strict=True)]
        return [*map(float, layer if statistics.median_low(gains) >= 0 else trained)]

    def _validated(self, network: Network, cell: Scenario, subject_ids: Sequence[str]) -> float:
        scores = evaluate(network, [(session, None) for session in self.sessions(cell, subject_ids)])
        return statistics.fmean(row["psnr_db"] for row in scores.values())

    def shared(self, name: str, *, stems: bool, share: float = 1.0) -> AnyToAny:
        """One network for all cells, trained with a share of the steps."""
        task = self.task(self.trained[0], share=share)
        priors = None
        if task.model.prior == "cubic":
            cubics = self.predictors("cubic")
            priors = lambda cell, sources: cubics[cell].predict(sources)  # noqa: E731
        network = AnyToAny(self.vocabulary, task.model, stems=stems, priors=priors, seed=self.seed)
        members = [
            self._member(network, site, [cell for cell in self.trained if site.trains(cell)], task=task, share=share)
            for site in self.sites
        ]
        federate(network, members, task=task, path=self.dir / f"{name}.safetensors", per_key=stems)
        return network

    @cache  # noqa: B019
    def trunk(self) -> AnyToAny:
        return self.shared("half", stems=True, share=0.5)

    def from_trunk(self, cell: Scenario) -> Predictor:
        """The trunk's network, trained on for one cell with the other half of the steps."""
        task, trunk = self.task(cell, share=0.5), self.trunk()
        network = AnyToAny(self.vocabulary, task.model, stems=True, priors=trunk.priors, seed=self.seed)
        network.load_state_dict(trunk.state_dict())
        members = [self._member(network, site, [cell], task=task, share=0.5) for site in self.holders(cell)]
        federate(network, members, task=task, path=self.dir / f"trunk-{stem_of(cell)}.safetensors", per_key=True)
        return CellOf(network, cell)

    def _member(self, network: AnyToAny, site: Site, cells: Sequence[Scenario], *, task: Task, share: float) -> Member:
        """A site that draws one of the cells for each batch, so often that all its holders make the cell's steps."""
        slices = {cell: self.slices(cell, site.training(cell)) for cell in cells}
        steps = torch.tensor([share * self.settings.steps / task.rounds / len(self.holders(cell)) for cell in cells])

        def draw(generator: torch.Generator, batch_size: int) -> Batch:
            network.cell = cells[int(torch.multinomial(steps, 1, generator=generator))]
            return slices[network.cell].draw(generator, batch_size)

        return Member(site.name, draw, max(1, round(float(steps.sum()))), len(site.train), frozenset(cells))

    def with_blends(self, trained: Mapping[Scenario, Predictor]) -> dict[Scenario, Predictor]:
        """The trained cells, and a blend of them for every other cell."""
        return {cell: trained.get(cell) or self._blend(cell, trained) for cell in self.vocabulary.cells}

    def _blend(self, cell: Scenario, trained: Mapping[Scenario, Predictor]) -> Blend:
        parts = [part for part in trained if part.target == cell.target and {*part.sources} <= {*cell.sources}]
        errors = [
            mean_square(
                trained[part],
                None,
                self.sessions(part, [s for site in self.holders(part) for s in site.validating(part)]),
            )
            for part in parts
        ]
        experts = [Expert(trained[part], tuple(map(cell.sources.index, part.sources)), 1.0, 0) for part in parts]
        compared = self.sessions(cell, self._compared(cell))
        disagreements = {
            (i, j): mean_square(Blend((experts[i],), 0, None), Blend((experts[j],), 0, None), compared)
            for i, j in combinations(range(len(parts)), 2)
            if compared
        }
        weights = blend_weights(errors, disagreements)
        return Blend(tuple(replace(expert, weight=w) for expert, w in zip(experts, weights, strict=True)), 0, None)

    def _compared(self, cell: Scenario) -> list[str]:
        """Subjects with all sources of a cell: those who train none of its parts, where there are any."""
        sites = [site for site in self.sites if site.modalities.issuperset(cell.sources)]
        without = [site for site in sites if cell.target not in site.modalities]
        return [
            subject_id
            for site in without or sites
            for subject_id in site.holding(cell.sources, (*site.validation, *(site.train if without else ())))[
                :MOST_COMPARED
            ]
        ]


def mean_square(predictor: Predictor, other: Predictor | None, sessions: Sequence[CachedSession]) -> float:
    """The mean over sessions of the mean square of the distance to the target, or to another prediction."""
    means = []
    for session in sessions:
        mine = predict_session(predictor, session)
        theirs = [prediction for prediction, _ in predict_session(other, session)] if other else None
        squares = [
            (prediction - (theirs[n] if theirs else batch.target)).square().flatten()
            for n, (prediction, batch) in enumerate(mine)
        ]
        means.append(float(torch.cat(squares).mean()))
    return statistics.fmean(means)


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `path` holds, made and written there where it does not exist."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(path, make())
    return json.loads(path.read_bytes())


def folder_of(settings: Settings, out: Path) -> Path:
    """Where the results of these settings are, whatever other settings are measured."""
    text = json.dumps(asdict(settings), sort_keys=True)
    return out / f"{Path(settings.data).name}-{settings.by}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def stem_of(cell: Scenario) -> str:
    return f"{'+'.join(cell.sources)}-to-{cell.target}"


if __name__ == "__main__":
    raise SystemExit(main())
