"""What a segmentation network still finds with a synthetic scan, Dice and recovered share; and how often the truth lies
within the interval that the federation calibrated. Two Markdown tables.

    python -m benchmarks.segmentation

Built-in data in BraTS's layout, 20 training and 8 test subjects at 3 sites. For each seed one segmentation network is
trained, and for each missing modality one federation per kind of synthesis. Finished parts are kept in --out, so that
the command can be stopped at any time and started again. `--rounds`, `--steps` and `--sites` make it short, to try it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agi_core.__main__ import main as agi_core
from agi_core.metric_table import SEGMENTED_ROWS
from agi_core.scoring.evaluation import share
from agi_core.scoring.figures import Mean
from benchmarks.commit import commit
from simulations.run import main as simulate

SCENARIOS = {"t2f": "t1n,t1c,t2w:t2f", "t1c": "t1n,t2w,t2f:t1c"}
KINDS = {
    "plain": ["model.conv=plain", "model.alignment=none"],
    "AGI-Net as published": ["model.alignment=none"],
    "AGI-Net with alignment": ["model.alignment=affine"],
}
DICE = {"t2f": ("WT",), "t1c": ("WT", "TC", "ET")}
"""What is looked at: the whole tumour needs t2f, and not t1c, which shows its core and what enhances."""
REGIONS = ("head", "healthy", "tumour", "oedema", "enhancing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(".cache/segmentation"), help="kept results (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--missing", default="t2f,t1c", help="modalities that are made (%(default)s)")
    parser.add_argument("--rounds", default="10")
    parser.add_argument("--local-steps", default="40")
    parser.add_argument("--steps", default="1500", help="of the segmentation network (%(default)s)")
    parser.add_argument("--sites", nargs=2, default=["A:7,B:7,C:6", "A:3,B:3,C:2"], metavar=("TRAIN", "TEST"))
    arguments = parser.parse_args()
    rows, doubts = list[list[str]](), list[list[str]]()
    for missing in arguments.missing.split(","):
        scenario = SCENARIOS[missing]
        for kind, settings in KINDS.items():
            summaries = [
                evaluated(arguments, seed, f"{missing}-{kind.replace(' ', '-')}", [f"scenario={scenario}", *settings])
                for seed in range(arguments.seeds)
            ]
            rows.extend(row(missing, kind, target, summaries) for target in DICE[missing])
            doubts.append(coverage(missing, kind, summaries))
    heads = [
        "missing",
        "synthesis",
        "of",
        *(f"Dice, {name}" for name in SEGMENTED_ROWS),
        "recovered share (interval), by seed",
        "of the regression",
    ]
    print(f"commit {commit()}, {arguments.seeds} seeds, {arguments.rounds} rounds of {arguments.local_steps} steps\n")
    print_table(heads, rows)
    print("\nthe run's own 90 % interval on the test subjects, by seed\n")
    print_table(["missing", "synthesis", *(f"{region}, share within" for region in REGIONS)], doubts)


def evaluated(arguments: argparse.Namespace, seed: int, name: str, settings: Sequence[str]) -> Mapping[str, Any]:
    """The summary of one run's synthetic volumes of the test subjects."""
    here = arguments.out / f"seed-{seed}"
    train, test, segmenter = here / "train", here / "test", here / "segmenter.safetensors"
    for folder, sites, its_seed in ((train, arguments.sites[0], seed), (test, arguments.sites[1], 1000 + seed)):
        if not folder.exists():
            of = ["--sites", sites, "--seed", str(its_seed), "--out", str(folder)]
            done(agi_core(["phantom", "--layout", "brats", *of]))
    if not segmenter.exists():
        steps = ["--steps", arguments.steps, "--seed", str(seed)]
        done(agi_core(["segment", "--train", str(train), "--out", str(segmenter), *steps]))
    run, out = here / name, here / f"{name}-scores"
    if not out.exists():
        data = ["--data", str(train), "--layout", "brats", "--sites", str(train / "partitioning.csv"), "--clients", "3"]
        budget = [f"rounds={arguments.rounds}", f"training.local_steps={arguments.local_steps}", f"seed={seed}"]
        if not run.exists():
            done(simulate([*data, "--out", str(run), *settings, *budget]))
        elif not (run / "summary.json").exists():
            done(simulate(["--out", str(run), "--resume"]))
        scored = ["--run", str(run), "--data", str(test), "--segmenter", str(segmenter), "--out", str(out)]
        done(agi_core(["evaluate", *scored]))
    summary: Mapping[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)), flush=True)


def done(exit_code: int) -> None:
    if exit_code:
        raise SystemExit(exit_code)


def row(missing: str, kind: str, target: str, summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Means over the seeds; the shares with their interval over subjects for each of them."""
    dice = [np.mean([s["figures"][f"dice_{target}_{name}"]["mean"] for s in summaries]) for name in SEGMENTED_ROWS]
    shares = [[s["recovered_shares"].get(f"dice_{target}{of}") for s in summaries] for of in ("", "_regression")]
    told = ["; ".join(share(Mean(**s)) if s else "not needed" for s in its) for its in shares]
    return [missing, kind, target, *(f"{value:.3f}" for value in dice), *told]


def coverage(missing: str, kind: str, summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The share of voxels within the interval that the run's sites calibrated at its end, means over subjects."""
    shares = [[s["figures"].get(f"coverage_{region}") for s in summaries] for region in REGIONS]
    return [missing, kind, *("; ".join(f"{s['mean']:.2f}" if s else "none" for s in some) for some in shares)]


if __name__ == "__main__":
    main()
