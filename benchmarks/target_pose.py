"""A target in a head pose of its own: what a loss at the aligned target gains, on scans acquired in one pose.

    python -m benchmarks.target_pose --data DIR/ixi_like --registered DIR/ixi_like_registered --scenario T2,PD:T1

Every variant is trained by the product's own loop with the same steps, crops and initial weights. All are scored on the
test subjects (the stable split's) of the twin, where sources and target share one pose: the modalities of
`--registered`, with those of `--data` that lie in their pose.

    plain        the loss is taken where the target lies
    aligned      `training.align_target=true`
    twin         trained on the twin itself: the bound
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import TrainingSlices
from agi_core.data.partition import split_subjects
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans, discover
from agi_core.evaluation import evaluate
from agi_core.metrics import mean_over_subjects
from agi_core.network import Network
from agi_core.scenario import parse_scenario
from agi_core.training import train_round

VARIANTS = ("plain", "aligned", "twin")
SETTINGS = ["rounds=1", "training.batch_size=8", "grid.crop=[96,96]", "model.conv=plain"]
SETTINGS += ["model.alignment=none", "model.neighbours=0", "model.prior=none", "personal=none"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="scans of which the target or a source has a pose of its own"
    )
    parser.add_argument("--registered", type=Path, required=True, help="modalities of the same subjects in one pose")
    parser.add_argument("--scenario", default="T2,PD:T1")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path, default=Path("runs/target-pose"))
    parser.add_argument("settings", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    twin_dir = twin(arguments.data, arguments.registered, root=arguments.out / "twin")
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for seed in map(int, arguments.seeds.split(",")):
        for name in VARIANTS:
            settings = [*SETTINGS, f"scenario='{arguments.scenario}'", f"training.local_steps={arguments.steps}"]
            settings += [f"training.align_target={'true' if name == 'aligned' else 'false'}", *arguments.settings]
            config = load_config(None, overrides={"seed": seed}, assignments=settings)
            data_dir = twin_dir if name == "twin" else arguments.data
            started = time.monotonic()
            network = Network(config.task)
            slices = TrainingSlices.of(config.task, sessions(config, data_dir, part="train", out=arguments.out))
            train_round(network.module, slices.draw, task=config.task, site="all", round=1)
            seconds = time.monotonic() - started
            tests = [(session, None) for session in sessions(config, twin_dir, part="test", out=arguments.out)]
            scores = mean_over_subjects(evaluate(network, tests).values())
            rows[name].append((scores["psnr_db"], scores["ssim"]))
            print(
                f"seed {seed} {name}: {scores['psnr_db']:.2f} dB, SSIM {scores['ssim']:.3f} ({seconds:.0f} s)",
                flush=True,
            )
    print(table(rows))
    return 0


def twin(data_dir: Path, registered_dir: Path, *, root: Path) -> Path:
    """A folder of scans in one pose, by links: those of the registered data, and from the other what it lacks."""
    root.mkdir(parents=True, exist_ok=True)
    for folder in (path for path in data_dir.iterdir() if path.is_dir()):
        registered, link = registered_dir / folder.name, root / folder.name
        if not link.exists():
            link.symlink_to((registered if registered.is_dir() else folder).resolve(), target_is_directory=True)
    return root


def sessions(config: RunConfig, data_dir: Path, *, part: str, out: Path) -> Sequence[CachedSession]:
    """Cached sessions of the stable split's `train` or `test` subjects."""
    scans = Scans(data_dir, config.data.layout)
    found = discover(scans, parse_scenario(config.scenario).modalities)
    chosen = getattr(split_subjects([subject.id for subject in found.subjects]), part)
    preparation = Preparation.of(config.task, scans, cache_dir=out / "cache", whole=part == "test")
    return preparation.open([subject for subject in found.subjects if subject.id in chosen])


def table(rows: dict[str, list[tuple[float, float]]]) -> str:
    """Means over seeds, and how much of the distance from plain to the twin the aligned target closes."""
    lines = ["| trained with | PSNR dB | SSIM | minus plain, dB |", "|---|---|---|---|"]
    plain = [psnr for psnr, _ in rows["plain"]]
    for name, results in rows.items():
        psnrs, ssims = zip(*results, strict=True)
        gains = [psnr - base for psnr, base in zip(psnrs, plain, strict=True)]
        lines.append(f"| {name} | {interval(psnrs)} | {statistics.fmean(ssims):.3f} | {interval(gains)} |")
    closed = [
        (a - p) / (b - p) for p, a, b in zip(plain, *([x for x, _ in rows[n]] for n in VARIANTS[1:]), strict=True)
    ]
    return "\n".join([*lines, "", f"Closed by the aligned target: {interval([100 * share for share in closed])} %"])


def interval(values: Sequence[float]) -> str:
    """The mean with the half width of its 95 % Student interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / np.sqrt(len(values))
    return f"{mean:.2f} ± {half:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
