"""How the error of a voxel is best foreseen, and whether the 90 % interval covers 90 % of new subjects.

    python -m benchmarks.uncertainty

Built-in data in BraTS's layout: one federation trains, other subjects calibrate, and still others test. All ways of
foreseeing the error cost one more layer of one tap. Finished parts are kept in --out, so that the command can be
stopped at any time and started again; `--pause 300` stops it by itself after the part that passes 300 s.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from agi_core import conformal
from agi_core.__main__ import main as agi_core
from agi_core.config.schema import RunConfig
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans, discover
from agi_core.network import Network
from agi_core.prediction import Predictor
from agi_core.ridge import Vector
from agi_core.run import run_folder
from agi_core.run.checkpoint import trained_weights
from agi_core.uncertainty import LEAST, Sample, WithError, expected, fit, sample
from benchmarks.commit import commit
from simulations.run import main as simulate

Foresee = Callable[[Vector], Vector]
"""Features (F, N) -> expected absolute error (N,)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(".cache/uncertainty"), help="kept results (%(default)s)")
    parser.add_argument("--scenario", default="t1n,t1c,t2w:t2f")
    parser.add_argument("--rounds", default="6")
    parser.add_argument("--local-steps", default="40")
    parser.add_argument("--train", default="A:7,B:7,C:6", help="sites and subjects (%(default)s)")
    parser.add_argument("--calibrate", default="A:8,B:8,C:8")
    parser.add_argument("--test", default="A:4,B:4,C:4")
    parser.add_argument("--pause", type=float, default=np.inf, metavar="SECONDS", help="stop after that time")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="further settings of the run")
    arguments = parser.parse_args()
    started, out, run = time.monotonic(), arguments.out, arguments.out / "run"

    def pause() -> None:
        if time.monotonic() - started > arguments.pause:
            raise SystemExit("paused; start again to go on")

    for seed, part in enumerate(("train", "calibrate", "test")):
        if not (out / part).exists():
            sites = ["--sites", getattr(arguments, part), "--seed", str(seed), "--out", str(out / part)]
            done(agi_core(["phantom", "--layout", "brats", *sites]))
            pause()
    if not run.exists():
        data = ["--data", str(out / "train"), "--layout", "brats", "--sites", str(out / "train" / "partitioning.csv")]
        budget = [f"rounds={arguments.rounds}", f"training.local_steps={arguments.local_steps}"]
        settings = [f"scenario={arguments.scenario}", *budget, *arguments.settings]
        done(simulate([*data, "--clients", "3", "--out", str(run), *settings]))
        pause()
    elif not (run / "summary.json").exists():
        done(simulate(["--out", str(run), "--resume"]))
        pause()
    config = run_folder.open_existing(run)
    network = Network(config)
    network.load(trained_weights(run))
    known, new = (samples(network, config, out / part, out / "cache") for part in ("calibrate", "test"))
    print(f"commit {commit()}, {len(known)} subjects calibrate, {len(new)} test\n")
    print(table(known, new, prior_count=network.module.prior_count or 1))
    print(f"\nprediction with expected error: {cost(network):.2f} times the time of the prediction alone\n")
    pause()
    scores = out / "scores"
    if not scores.exists():
        done(agi_core(["calibrate", "--run", str(run), "--data", str(out / "calibrate")]))
        done(agi_core(["evaluate", "--run", str(run), "--data", str(out / "test"), "--out", str(scores)]))
    figures = json.loads((scores / "summary.json").read_text())["figures"]
    for name, mean in figures.items():
        if name.startswith("coverage_"):
            print(f"{name}: {mean['mean']:.3f} ({mean['low']:.3f} to {mean['high']:.3f}), n = {mean['subjects']}")


def done(exit_code: int) -> None:
    if exit_code:
        raise SystemExit(exit_code)


def samples(network: Network, config: RunConfig, data_dir: Path, cache_dir: Path) -> list[Sample]:
    """Of each subject in a folder."""
    scans = Scans(data_dir, config.data.layout, register=config.data.register)
    preparation = Preparation.of(config, scans, cache_dir=cache_dir, whole=True)
    subjects = discover(scans, network.scenario.modalities).subjects
    return [sample(network, preparation.open([subject])) for subject in subjects]


def cost(network: Network, *, size: int = 128, repeats: int = 9) -> float:
    """The time of both volumes over that of the prediction: medians of passes in turn, through 8 slices."""
    shape = (8, len(network.scenario.sources), *((2 * network.neighbours + 1,) if network.neighbours else ()))
    sources = torch.rand(*shape, size, size, generator=torch.Generator().manual_seed(0))
    both = WithError(network, network.readout)
    seconds: dict[Predictor, list[float]] = {network: [], both: []}
    for _ in range(repeats):
        for predictor, times in seconds.items():
            started = time.perf_counter()
            predictor.predict(sources)
            times.append(time.perf_counter() - started)
    alone, together = (float(np.median(times)) for times in seconds.values())
    return together / alone


def table(known: Sequence[Sample], new: Sequence[Sample], *, prior_count: int) -> str:
    """Markdown: each way, with the interval that the first subjects calibrate, on the second ones. Every way is fitted
    on one half of the first and calibrated on the other, then the other way round; the figures are the mean of both.

    The interval score is the width, and 20 times what the error is beyond the interval (Gneiting & Raftery 2007): it
    is least for the true 90 % interval. The correlation is that of a subject's voxels, mean over subjects.
    """
    rows = [
        "| error foreseen from | interval score | correlation with the error | coverage | of single subjects |",
        "|---|---|---|---|---|",
    ]
    for name, way in ways(prior_count).items():
        figures = []
        for fitting, calibrating in ((known[::2], known[1::2]), (known[1::2], known[::2])):
            foresee = way(fitting)
            counts = np.sum([conformal.count(s.error / foresee(s.features)) for s in calibrating], axis=0)
            factor = conformal.factor(counts, subjects=len(calibrating))
            figures += [of_subject(s.error, foresee(s.features), factor=factor) for s in new]
        score, correlation, covered = np.transpose(figures)
        cells = [name, f"{score.mean():.4f}", f"{correlation.mean():.2f}", f"{covered.mean():.3f}"]
        rows.append(f"| {' | '.join([*cells, f'{covered.min():.3f} to {covered.max():.3f}'])} |")
    return "\n".join(rows)


def of_subject(error: Vector, foreseen: Vector, *, factor: float) -> tuple[float, float, float]:
    """Interval score, correlation and coverage of one subject's voxels."""
    half_width = factor * foreseen
    score = float(np.mean(2 * half_width + 20 * np.maximum(0, error - half_width)))
    correlation = float(np.corrcoef(foreseen, error)[0, 1]) if np.ptp(foreseen) > 1e-9 else 0.0
    return score, correlation, float(np.mean(error <= half_width))


def ways(prior_count: int) -> dict[str, Callable[[Sequence[Sample]], Foresee]]:
    """How the error can be foreseen of so many monomials of the prior, which stand before the last features."""

    def linear(count: int | None) -> Callable[[Sequence[Sample]], Foresee]:
        def way(fitting: Sequence[Sample]) -> Foresee:
            layer = fit([Sample(s.features[:count], s.error).statistics for s in fitting])
            return lambda features: expected(layer, features[:count])

        return way

    def logarithmic(fitting: Sequence[Sample]) -> Foresee:
        layer = fit([Sample(s.features, np.log(s.error + LEAST)).statistics for s in fitting])
        errors, foreseen = (
            np.concatenate(values)
            for values in ([s.error for s in fitting], [np.exp(layer @ s.features) for s in fitting])
        )
        ratio = errors.mean() / foreseen.mean()
        return lambda features: np.asarray((ratio * np.exp(layer @ features)).clip(LEAST, 1))

    def quantile(fitting: Sequence[Sample]) -> Foresee:
        layer = quantile_layer(
            *(np.concatenate([getattr(s, of) for s in fitting], axis=-1) for of in ("features", "error"))
        )
        return lambda features: expected(layer, features)

    return {
        "nothing: one number": linear(1),
        "the prior's monomials": linear(prior_count),
        "these and the last features": linear(None),
        "the same, its logarithm": logarithmic,
        "the same, its 90 % quantile": quantile,
    }


def quantile_layer(features: Vector, error: Vector, *, quantile: float = 0.9, passes: int = 50) -> Vector:
    """The layer (F,) below which that share of the errors (N,) lies, linear in the features (F, N): quantile regression
    (Koenker & Bassett 1978) by least squares that are weighted anew in each pass. It needs the voxels in one place."""
    count, layer = len(features), np.zeros(len(features))
    for _ in range(passes):
        beyond = error - layer @ features
        weights = np.where(beyond > 0, quantile, 1 - quantile) / np.maximum(np.abs(beyond), LEAST)
        weighted = features * weights
        layer[:] = np.linalg.solve(weighted @ features.T + 1e-6 * np.eye(count), weighted @ error)
    return layer


if __name__ == "__main__":
    main()
