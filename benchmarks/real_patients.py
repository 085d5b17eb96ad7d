"""Real patients, of whom there are few: each is left out once, and the others are hospitals of one patient each.

    python -m benchmarks.real_patients --data DIR/brats_like --layout brats --starts random,public
    python -m benchmarks.real_patients --data DIR/ms_bids --layout bids
    python -m benchmarks.real_patients --data DIR/brats_like --layout brats --segmenter segmenter.safetensors

Each run is a whole `simulations/run.py` with its defaults. The patient who is left out is an unseen site, and is scored
with the common model, with the mean over the models that each site trained alone, and with regressions. Finished runs
are kept in --out, so the command can be stopped and started again. Means are over patients; a seed changes the initial
weights and the crops, and intervals are over seeds: of other patients they say nothing. With --segmenter, a file of
`python -m agi_core segment`, a last table says what it finds with the synthetic scan of the patient who is left out.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from agi_core.__main__ import main as agi_core
from agi_core.config.load import load_config
from agi_core.data.scans import Scans, discover
from agi_core.metric_table import SEGMENTED_ROWS
from agi_core.run.scores import Metrics
from agi_core.run.summary import read_summary
from agi_core.scenario import parse_scenario
from benchmarks.commit import commit
from benchmarks.results import interval
from simulations.run import main as simulate

LEFT_OUT = "Z"  # behind all others by name: with equal sizes, the last ones are the unseen sites
COLUMNS = {
    "global": "the network",
    "local_only": "alone",
    "regression_pooled": "regression, aligned",
    "voxel_regression": "regression, as they are",
    "initial_weights": "its start",
}
Table = dict[tuple[str, str], list[float]]
"""{(metric, column): that of each patient, and their mean}."""
SEGMENTED = "dice_WT"  # sclerosis has one label; it counts as a whole tumour
METRICS = {"psnr_db": 2, "ssim": 4, "mae": 4}  # with the digits that are printed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--layout", required=True)
    parser.add_argument("--starts", default="random", help="initial weights: random, public, or both (%(default)s)")
    parser.add_argument("--seeds", default="0", help="comma-separated (%(default)s)")
    parser.add_argument("--segmenter", type=Path, help="also segment each patient who is left out with this network")
    parser.add_argument("--out", type=Path, default=Path("runs/real-patients"))
    parser.add_argument("settings", nargs="*", metavar="key=value", help="further settings of every run")
    arguments = parser.parse_intermixed_args()
    config = load_config(None, overrides={"data.layout": arguments.layout}, assignments=arguments.settings)
    scans = Scans(arguments.data.resolve(), arguments.layout)
    patients = [subject.id for subject in discover(scans, parse_scenario(config.scenario).modalities).subjects]
    print(f"{config.scenario} on {arguments.data.name}, {len(patients)} patients; commit {commit()}")
    seeds = [*map(int, arguments.seeds.split(","))]
    for start in arguments.starts.split(","):
        print(f"\n| seed | {start} | metric | {' | '.join([*patients, 'mean'])} |\n|{'---|' * (len(patients) + 4)}")
        tables = []
        for seed in seeds:
            tables.append(table(arguments, patients, start=start, seed=seed))
            for (metric, column), values in tables[-1].items():
                row(f"{seed} | {COLUMNS[column]}", metric, [[value] for value in values])
        if len(seeds) > 1:
            print_over_seeds(tables)
        if arguments.segmenter:
            print_segmented(arguments, patients, start=start, seeds=seeds)


def table(arguments: argparse.Namespace, patients: list[str], *, start: str, seed: int) -> Table:
    scores = {patient: run(arguments, patients, patient, start=start, seed=seed) for patient in patients}
    values = {
        (metric, column): [scores[patient][column][metric] for patient in patients]
        for metric in METRICS
        for column in scores[patients[0]]
    }
    return {key: [*its, fmean(its)] for key, its in values.items()}


def print_over_seeds(tables: Sequence[Table]) -> None:
    """Every row of a table, and what the network gains over the others."""
    for metric, column in tables[0]:
        row(f"mean | {COLUMNS[column]}", metric, [*zip(*(its[metric, column] for its in tables), strict=True)])
    for metric, column in tables[0]:
        if metric == "psnr_db" and column != "global":
            gains = [np.subtract(its[metric, "global"], its[metric, column]) for its in tables]
            row(f"mean | the network minus {COLUMNS[column]}", metric, np.transpose(gains).tolist())


def print_segmented(
    arguments: argparse.Namespace, patients: Sequence[str], *, start: str, seeds: Sequence[int]
) -> None:
    """Dice of each patient, with what the segmentation network is given."""
    figures = {
        patient: [segmented(arguments, run_dir(arguments, patient, start=start, seed=seed)) for seed in seeds]
        for patient in patients
    }
    for name, given in SEGMENTED_ROWS.items():
        dice = [[its[f"{SEGMENTED}_{name}"]["mean"] for its in figures[patient]] for patient in patients]
        row(f"mean | {given}", SEGMENTED, [*dice, [fmean(values) for values in zip(*dice, strict=True)]])


def segmented(arguments: argparse.Namespace, run_dir: Path) -> Mapping[str, Mapping[str, float]]:
    """The figures of `evaluate`, which scores nobody who trained the run."""
    out = run_dir.with_name(f"{run_dir.name}-scores")
    if not out.exists():
        what = ["--run", str(run_dir), "--data", str(arguments.data), "--segmenter", str(arguments.segmenter)]
        if code := agi_core(["evaluate", *what, "--out", str(out)]):
            raise SystemExit(code)
    figures: Mapping[str, Mapping[str, float]] = json.loads((out / "summary.json").read_text())["figures"]
    return figures


def row(first: str, metric: str, cells: Sequence[Sequence[float]]) -> None:
    """Each cell has one value, or one of each seed."""
    printed = [interval(values, digits=METRICS.get(metric, 3)) for values in cells]
    print(f"| {first} | {metric} | {' | '.join(printed)} |", flush=True)


def run_dir(arguments: argparse.Namespace, left_out: str, *, start: str, seed: int) -> Path:
    folder: Path = arguments.out / f"{arguments.data.name}-{left_out}-{start}-{seed}"
    return folder


def run(
    arguments: argparse.Namespace, patients: list[str], left_out: str, *, start: str, seed: int
) -> dict[str, Metrics]:
    """{column: the figures of the patient who is left out}."""
    here = run_dir(arguments, left_out, start=start, seed=seed)
    if read_summary(here) is None:
        table = here.with_suffix(".csv")
        table.parent.mkdir(parents=True, exist_ok=True)
        others = [patient for patient in patients if patient != left_out]
        rows = [(left_out, LEFT_OUT), *((patient, f"P{number}") for number, patient in enumerate(others, 1))]
        table.write_text("Subject_ID,Partition_ID\n" + "".join(f"{patient},{site}\n" for patient, site in rows))
        what = ["--data", str(arguments.data), "--layout", arguments.layout, "--sites", str(table)]
        resume = ["--resume"] if (here / "config.yaml").is_file() else []
        how = ["--clients", str(len(others)), "--seed", str(seed), f"initial_weights={start}", *arguments.settings]
        if code := simulate([*what, *how, "--out", str(here), *resume]):
            raise SystemExit(code)
    summary = read_summary(here)
    assert summary is not None
    scores = {"global": summary.scores, **summary.baselines}
    return {name: scores[name].unseen_sites[LEFT_OUT].metrics for name in COLUMNS if name in scores}


if __name__ == "__main__":
    main()
