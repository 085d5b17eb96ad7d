"""Whether a synthetic volume holds together through the plane: a 2-D network, one that sees neighbouring slices, 3-D.

    python -m benchmarks.through_plane

Built-in isotropic data in IXI's layout on a grid of 3 mm, T1 and T2 to PD at 3 sites; all kinds get the same rounds and
steps of equally many voxels, and others test. Each kind is one whole `simulations/run.py`, scored by `evaluate`.
Finished parts are kept in --out, so that the command can be stopped at any time and started again.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agi_core.__main__ import main as agi_core
from agi_core.scoring.consistency import CLASSES, PLANES
from benchmarks.commit import commit
from simulations.run import main as simulate

PRIOR = "model.prior=cubic"
TRAIN, TEST = "Guys:10,HH:8,IOP:6", "Guys:4,HH:3,IOP:3"
SLICES = ["grid.crop=[64,64]", "training.batch_size=36"]
PATCHES = ["model.dims=3", "grid.crop=[48,48,32]", "training.batch_size=2"]  # as many voxels
KINDS = {
    "2-D": [*SLICES, PRIOR, "model.neighbours=0"],
    "2-D with neighbours": [*SLICES, PRIOR, "model.neighbours=1"],
    "3-D": [*PATCHES, PRIOR],
    "3-D without a prior": [*PATCHES, "model.prior=none"],
}
SETTINGS = [
    "scenario=T1,T2:PD",
    "reference=T2",
    "grid.spacing_mm=[3,3,3]",
    "model.conv=plain",
    "model.alignment=affine",
]
SETTINGS += ["training.learning_rate=1e-3", "engine=in-process"]
FIGURES = [
    "psnr_db_head",
    "ssim_head",
    *(f"neighbours_{whose}_{plane}" for plane in PLANES for whose in ("real", "synthetic")),
]
FIGURES += [*(f"volume_ratio_{name}" for name in CLASSES), *(f"centroid_shift_mm_{name}" for name in CLASSES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(".cache/through-plane"), help="kept results (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", default="6")
    parser.add_argument("--local-steps", default="60")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which of them (%(default)s)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="further settings of every run")
    arguments = parser.parse_intermixed_args()
    kinds = arguments.kinds.split(",")
    figures = {kind: scored(arguments, kind) for kind in kinds}
    print(f"commit {commit()}, seed {arguments.seed}, {arguments.rounds} rounds of {arguments.local_steps} steps\n")
    print(f"| figure | {' | '.join(kinds)} |\n|{'---|' * (len(kinds) + 1)}")
    for figure in FIGURES:
        print(f"| {figure} | {' | '.join(interval(figures[kind][figure]) for kind in kinds)} |")


def scored(arguments: argparse.Namespace, kind: str) -> Mapping[str, Mapping[str, Any]]:
    """The figures of one kind's synthetic volumes of the test subjects, {figure: mean and interval over subjects}."""
    here = arguments.out / f"seed-{arguments.seed}"
    for name, sites, seed in (("train", TRAIN, arguments.seed), ("test", TEST, 1000 + arguments.seed)):
        if not (here / name).exists():
            what = ["--layout", "ixi", "--isotropic", "--sites", sites, "--seed", str(seed), "--out", str(here / name)]
            done(agi_core(["phantom", *what]))
    run = here / kind.replace(" ", "-")
    out = run.with_name(f"{run.name}-scores")
    if not (run / "summary.json").exists():
        resume = ["--resume"] if run.exists() else []
        budget = [
            f"rounds={arguments.rounds}",
            f"training.local_steps={arguments.local_steps}",
            f"seed={arguments.seed}",
        ]
        what = ["--data", str(here / "train"), "--layout", "ixi", "--clients", "3", "--out", str(run)]
        done(simulate([*what, *resume, *SETTINGS, *KINDS[kind], *budget, *arguments.settings]))
    if not out.exists():
        done(agi_core(["evaluate", "--run", str(run), "--data", str(here / "test"), "--out", str(out)]))
    figures: Mapping[str, Mapping[str, Any]] = json.loads((out / "summary.json").read_text())["figures"]
    return figures


def interval(mean: Mapping[str, Any]) -> str:
    return f"{mean['mean']:.3f} ({mean['low']:.3f} to {mean['high']:.3f})"


def done(exit_code: int) -> None:
    if exit_code:
        raise SystemExit(exit_code)


if __name__ == "__main__":
    main()
