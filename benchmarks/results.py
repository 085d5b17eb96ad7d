"""The figures of docs/results.md: the federation and its baselines on built-in data, over seeds. Resumable.

    make results        (or: python benchmarks/results.py --seeds 0,1,2)
    python benchmarks/results.py --demo --seeds 0,1,2,3,4 --processes 2 --out runs/demo-seeds

Each seed is one whole `simulations/run.py` in a process of its own with one thread, several side by side: with
`--compare` and twice the demo's data and length, or as the demo is. A seed sets the initial weights, the crops and how
a hospital's subjects are dealt to its clients. Intervals are 95 % Student t over seeds; differences are taken within a
seed first.
"""

import argparse
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from scipy.stats import t

from agi_core.run.scores import Scores
from agi_core.run.summary import Summary, read_summary
from benchmarks.commit import commit

DEMO = ["--clients", "5", "engine=in-process"]  # the runs are side by side already
LONG = [*DEMO, "--compare", "--rounds", "10", "training.local_steps=60", "data.phantom_sites=Guys:30,HH:20,IOP:12"]
MODELS: tuple[str, ...] = ("personal", "federated", "centralised", "local_only")
MODELS += ("regression_per_site", "regression_pooled", "voxel_regression")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/results"), help="folder of the runs (%(default)s)")
    parser.add_argument("--demo", action="store_true", help="as the demo is, not --compare, twice the data and longer")
    parser.add_argument("--processes", type=int, default=3, help="runs at a time (%(default)s)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="further settings of every run")
    arguments = parser.parse_args()
    settings = [*(DEMO if arguments.demo else LONG), *arguments.settings]
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    run_dirs = [arguments.out / f"seed-{seed}" for seed in seeds]
    started = time.monotonic()

    with ThreadPoolExecutor(arguments.processes) as pool:
        failed = [code for code in pool.map(partial(run, settings=settings), seeds, run_dirs) if code]
    if failed:
        print(f"{len(failed)} of {len(seeds)} runs failed, see above; start again afterwards: finished rounds are kept")
        return 1

    summaries = [summary for run_dir in run_dirs if (summary := read_summary(run_dir)) is not None]
    text = table(summaries, settings)
    text += f"\nThis call took {(time.monotonic() - started) / 60:.0f} min.\n"
    (arguments.out / "results.md").write_text(text)
    print(text)
    return 0


def run(seed: int, run_dir: Path, settings: Sequence[str]) -> int:
    """One seed, from its start or from where it was interrupted, to its summary; output goes to RUN.log; exit code."""
    if (run_dir / "summary.json").is_file():
        return 0
    resume = ["--resume"] if (run_dir / "config.yaml").is_file() else []
    where = ["--seed", str(seed), "--out", str(run_dir), *resume]
    command = [sys.executable, "simulations/run.py", *settings, *where]
    print(f"seed {seed}: {' '.join(command[1:])}", flush=True)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with run_dir.with_suffix(".log").open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        print(run_dir.with_suffix(".log").read_text()[-2000:])
    return code


def table(summaries: Sequence[Summary], settings: Sequence[str]) -> str:
    """Markdown: figures per model, differences to the first one, and the worst site."""
    models = [model for model in MODELS if all(scores_of(summary, model) for summary in summaries)]
    first, rows = models[0], []
    for model in models:
        finals = [scores.final for summary in summaries if (scores := scores_of(summary, model))]
        worsts = [worst_of(summary, model) for summary in summaries]
        cells = [model.replace("_", " "), interval([final["psnr_db"] for final in finals])]
        cells += [interval([final[name] for final in finals], digits=4) for name in ("ssim", "mae")]
        cells.append(interval(worsts))
        if model == first:
            ours, our_worsts = [final["psnr_db"] for final in finals], worsts
        else:
            cells.append(interval([a - b["psnr_db"] for a, b in zip(ours, finals, strict=True)]))
            cells.append(interval([a - b for a, b in zip(our_worsts, worsts, strict=True)]))
        rows.append(f"| {' | '.join(cells)} |")
    minutes = interval([summary.wall_s / 60 for summary in summaries], digits=1)
    summary = summaries[0]
    lines = [
        f"{summary.scenario}, SYNTHETIC data of {summary.anatomies} anatomies, {len(summaries)} seeds,"
        f" {summary.scores.subjects} test subjects each; `{' '.join(settings)}`;",
        f"commit {commit()}, {platform.machine()}, one thread per run, {minutes} min per run.",
        "",
        f"| model | PSNR dB | SSIM | MAE | worst site, dB | {first} minus this, dB | on the worst site, dB |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def scores_of(summary: Summary, model: str) -> Scores | None:
    """Those of the common model, of the sites' own last layers, or of a baseline; None where they were not scored."""
    own = {"federated": summary.scores, "personal": summary.personal}
    return own[model] if model in own else summary.baselines.get(model)


def worst_of(summary: Summary, model: str) -> float:
    """PSNR of the training site where the model is worst."""
    scores = scores_of(summary, model)
    return min(score.psnr_db for score in scores.sites.values()) if scores else math.nan


def interval(values: Sequence[float], *, digits: int = 2) -> str:
    """`mean ± half width` of the 95 % Student t interval; the value alone where there is only one."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
