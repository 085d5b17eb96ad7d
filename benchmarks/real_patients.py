"""Real patients, of whom there are few: each is left out once, and the others are hospitals of one patient each.

    python -m benchmarks.real_patients --data DIR/brats_like --layout brats --starts random,public
    python -m benchmarks.real_patients --data DIR/ms_bids --layout bids

Each run is a whole `simulations/run.py` with its defaults. The patient who is left out is an unseen site, and is scored
with the common model, with the mean over the models that each site trained alone, and with regressions. Finished runs
are kept in --out, so the command can be stopped and started again. Means are over patients; a seed changes the initial
weights and the crops.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from agi_core.config.load import load_config
from agi_core.data.scans import Scans, discover
from agi_core.run.scores import Metrics
from agi_core.run.summary import read_summary
from agi_core.scenario import parse_scenario
from benchmarks.results import commit
from simulations.run import main as simulate

LEFT_OUT = "Z"  # behind all others by name: with equal sizes, the last ones are the unseen sites
COLUMNS = {
    "global": "the network",
    "local_only": "alone",
    "regression_pooled": "regression, aligned",
    "voxel_regression": "regression, as they are",
    "initial_weights": "its start",
}
METRICS = {"psnr_db": 2, "ssim": 4, "mae": 4}  # with the digits that are printed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--layout", required=True)
    parser.add_argument("--starts", default="random", help="initial weights: random, public, or both (%(default)s)")
    parser.add_argument("--seeds", default="0", help="comma-separated (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/real-patients"))
    parser.add_argument("settings", nargs="*", metavar="key=value", help="further settings of every run")
    arguments = parser.parse_intermixed_args()
    config = load_config(None, overrides={"data.layout": arguments.layout}, assignments=arguments.settings)
    scans = Scans(arguments.data.resolve(), arguments.layout)
    patients = [subject.id for subject in discover(scans, parse_scenario(config.scenario).modalities).subjects]
    print(f"{config.scenario} on {arguments.data.name}, {len(patients)} patients; commit {commit()}\n")
    print(f"| start | seed | metric | {' | '.join([*patients, 'mean'])} |\n|{'---|' * (len(patients) + 4)}")
    for start in arguments.starts.split(","):
        for seed in map(int, arguments.seeds.split(",")):
            figures: dict[str, list[Metrics]] = defaultdict(list)
            for patient in patients:
                for column, scores in run(arguments, patients, patient, start=start, seed=seed).items():
                    figures[column].append(scores)
            for metric, digits in METRICS.items():
                for column, of_patients in figures.items():
                    values = [scores[metric] for scores in of_patients]
                    cells = [f"{value:.{digits}f}" for value in [*values, statistics.fmean(values)]]
                    print(f"| {start}: {COLUMNS[column]} | {seed} | {metric} | {' | '.join(cells)} |", flush=True)


def run(
    arguments: argparse.Namespace, patients: list[str], left_out: str, *, start: str, seed: int
) -> dict[str, Metrics]:
    """{column: the figures of the patient who is left out}."""
    here = arguments.out / f"{arguments.data.name}-{left_out}-{start}-{seed}"
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
