"""What privacy costs in quality: federations at several budgets, sites, starts and seeds, one Markdown table.

    python benchmarks/private_quality.py --data DIR/ixi_like

Finished runs are kept in --out, so that the command can be stopped at any time and started again. The first rows are
the aim: 10 sites of 40 subjects, pre-trained, epsilon 8, against fine-tuning without privacy from the same weights.
The network is small and the grid coarse, so that this fits on a laptop; both are the same in every row. All rows of a
data set have the same number of rounds, and a site looks at as many crops in a round with privacy as without.
"""

import argparse
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from agi_core.config.load import load_config
from agi_core.config.schema import PrivacyConfig, RunConfig
from agi_core.data.partition import split_subjects
from agi_core.data.phantom.built_in import SIMULATED, with_built_in_data
from agi_core.host import atomic
from agi_core.run import run_folder
from agi_core.run.event_log import EventLog, events_of
from agi_core.run.events import ModelTested
from benchmarks.commit import commit
from benchmarks.results import interval
from client.app import app as client_app
from server.app import app as server_app
from simulations.baselines import open_sites, run_baselines
from simulations.local_grid import run_in_process
from simulations.pretrained import with_pretrained_weights
from simulations.results import privacy_spent
from simulations.simulation import BUILT_IN_DIR
from simulations.sites import find_sites, prepare_caches, write_sites

HOSPITALS = ("Guys", "HH", "IOP", "Alder", "Birch", "Cedar", "Elm", "Fir", "Hazel", "Larch")
SUBJECTS = 40
GRID = ["reference=T2", "model.conv=plain", "model.alignment=none", "grid.spacing_mm=[3,3,10]", "grid.crop=[48,48]"]
GRID += ["model.prior=none", "personal=none"]
TRAINING = ["rounds=4", "evaluation.validation_slices=1", "evaluation.max_subjects=0", "training.batch_size=4"]
PRIVATE = ["training.local_steps=4", "privacy.lot_rate=0.5", "privacy.slices_per_subject=2"]
PRETRAINED, SCRATCH = "pre-trained", "from scratch"
RATE = {PRETRAINED: 5e-4, SCRATCH: 3e-3}  # of AdamW without privacy, which forgets the pre-training at its usual 3e-3
EPSILONS = (8.0, None, 3.0, 1.0)  # None: without privacy


@dataclass(frozen=True)
class Case:
    """One row of the table. `data` None = built-in data."""

    data: Path | None
    sites: int
    start: str
    epsilon: float | None
    trained: str = "norms"  # as `privacy.trainable`; without privacy everything is trained

    @property
    def name(self) -> str:
        data, budget = self.data.name if self.data else "built-in", f"{self.epsilon:g}" if self.epsilon else "none"
        part = [] if self.trained == "norms" else [self.trained]
        return "-".join([data, str(self.sites), self.start.replace(" ", "-"), budget, *part])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="also on this folder in the layout of IXI")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/private_quality"), help="folder (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for case in cases(arguments.data):
        for seed in seeds:
            path = arguments.out / f"{case.name}-{seed}.json"
            if not path.is_file():
                atomic.write_json(path, measure(case, seed=seed, run_dir=path.with_suffix("")))
                print(path.stem, json.loads(path.read_text()), flush=True)
        (arguments.out / "table.md").write_text(table(arguments.out, cases(arguments.data), seeds))
    print((arguments.out / "table.md").read_text())


def cases(data: Path | None) -> list[Case]:
    """The rows, the aim first."""
    sets = [(its, sites) for its in ((None, data) if data else (None,)) for sites in (10, 3)]
    pretrained = [Case(its, sites, PRETRAINED, epsilon) for its, sites in sets for epsilon in EPSILONS]
    parts = [Case(None, 10, PRETRAINED, 8.0, part) for part in ("last", "adapters", "all")]
    scratch = [Case(its, sites, SCRATCH, epsilon, "all") for its, sites in sets for epsilon in EPSILONS]
    return pretrained + parts + scratch


def measure(case: Case, *, seed: int, run_dir: Path) -> dict[str, Any]:
    """Figures of one federation: mean PSNR in dB over the sites' test subjects of its last model and of its initial
    weights, and the largest epsilon of a site by the ledgers."""
    shutil.rmtree(run_dir, ignore_errors=True)
    config, federation = find_sites(configure(case, seed=seed))
    subjects = sum(len(split_subjects(subject.id for subject in site).train) for site in federation.training.values())
    if case.epsilon is None:
        config = without_privacy(config, subjects=subjects, rate=RATE[case.start])
    prepare_caches(config, federation)
    run_folder.create(run_dir, config)
    site_paths = write_sites(run_dir, config, federation)
    nodes = [{"site": site, "site-config": str(path)} for site, path in site_paths.items()]
    run_in_process(server_app, client_app, node_configs=nodes, run_config={"run-dir": str(run_dir.resolve())})
    (psnr_db,) = [tested.scores.final["psnr_db"] for tested in events_of(run_dir, ModelTested)]
    baselines = run_baselines(
        ["initial_weights"],
        config=config,
        data=open_sites(config, site_paths),
        run_dir=run_dir,
        events=EventLog(run_dir),
    )
    spent = privacy_spent(config, run_dir, site_paths).values()
    return {
        "psnr_db": psnr_db,
        "initial_psnr_db": baselines["initial_weights"].final["psnr_db"],
        "training_subjects": subjects,
        "epsilon": max((row["epsilon"] for row in spent), default=None),
    }


def configure(case: Case, *, seed: int) -> RunConfig:
    """The private federation of a case; without a budget of its own, that of epsilon 8."""
    data = {"data.dir": str(case.data) if case.data else None, "clients": case.sites, "seed": seed}
    data["data.phantom_sites"] = ",".join(f"{site}:{SUBJECTS}" for site in HOSPITALS[: case.sites])
    settings = [*GRID, *TRAINING, *PRIVATE, f"privacy.epsilon={case.epsilon or 8}", f"privacy.trainable={case.trained}"]
    settings += ["model.adapters=4"] if case.trained == "adapters" else []
    settings += ["initial_weights=random"] if case.start == SCRATCH else []
    console = Console()
    config = with_built_in_data(
        load_config(None, overrides=data, assignments=settings), SIMULATED, work_dir=BUILT_IN_DIR
    )
    return with_pretrained_weights(config, BUILT_IN_DIR, console)


def without_privacy(config: RunConfig, *, subjects: int, rate: float) -> RunConfig:
    """The same federation with AdamW, and as many crops in a round as its `subjects` give with privacy."""
    training, privacy = config.training, config.privacy
    crops = subjects * privacy.lot_rate * training.local_steps * privacy.slices_per_subject
    steps = max(1, round(crops / len(config.federation.sites) / training.batch_size))
    training = replace(training, local_steps=steps, learning_rate=rate)
    return replace(config, training=training, privacy=PrivacyConfig())


def table(out_dir: Path, rows: Sequence[Case], seeds: Sequence[int]) -> str:
    """Markdown: mean and 95 % Student t interval over the finished seeds; differences are taken within a seed."""
    lines = [
        f"`python benchmarks/private_quality.py`, commit {commit()}; {' '.join([*GRID, *TRAINING, *PRIVATE])}",
        "",
        "| data | sites | training subjects | start | epsilon | trained | seeds | PSNR dB | initial weights, dB | minus"
        " without privacy, dB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in rows:
        ours = finished(out_dir, case, seeds)
        trained = "norms" if case.start == PRETRAINED else "all"
        plain = finished(out_dir, replace(case, epsilon=None, trained=trained), seeds)
        if not ours:
            continue
        differences = [ours[seed]["psnr_db"] - plain[seed]["psnr_db"] for seed in ours if seed in plain]
        cells = [
            case.data.name if case.data else "built-in",
            case.sites,
            next(iter(ours.values()))["training_subjects"],
        ]
        cells += [case.start, case.epsilon or "none", case.trained if case.epsilon else "all", len(ours)]
        cells += [interval([row[name] for row in ours.values()]) for name in ("psnr_db", "initial_psnr_db")]
        cells.append(interval(differences) if differences and case.epsilon else "")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def finished(out_dir: Path, case: Case, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
    """{seed: figures} of a case's finished runs."""
    paths = {seed: out_dir / f"{case.name}-{seed}.json" for seed in seeds}
    return {seed: json.loads(path.read_text()) for seed, path in paths.items() if path.is_file()}


if __name__ == "__main__":
    main()
