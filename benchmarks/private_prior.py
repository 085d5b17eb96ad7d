"""What privacy costs the pooled prior, in closed form: no network, no round.

    python benchmarks/private_prior.py --data DIR/ixi_like

Public are the pre-training's own subjects (built-in data), private those of --data and of the demo, dealt to sites of
equal size. A quarter of the subjects tests. PSNR is that of the mean squared error over the statistics' slices of each
test subject: nothing is clipped, and no mask is used. Intervals are 95 % Student t over draws of subjects and noise.
"""

import argparse
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from agi_core.config.load import load_config
from agi_core.config.schema import PrivacyConfig, RunConfig
from agi_core.data.phantom.built_in import PUBLIC, SIMULATED, with_built_in_data
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans, discover
from agi_core.metric_table import psnr_db
from agi_core.network import Network
from agi_core.pretraining import PRETRAINING
from agi_core.privacy.noise import system_noise
from agi_core.privacy.private_prior import common_step, noisy_newton_step, planned_release
from agi_core.readout import readout_statistics
from agi_core.ridge import STRENGTH, Statistics, Vector, whitening
from benchmarks.commit import commit
from benchmarks.results import interval

SETTINGS = ("scenario='T1,T2:PD'", "reference=T2", "model.alignment=dense", "model.neighbours=1", "model.prior=cubic")
SITES, EPSILONS = (3, 10), (8.0, 3.0, 1.0)
WORK_DIR = Path(".cache")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="a folder in the layout ixi")
    parser.add_argument("--draws", type=int, default=20, help="of subjects and noise (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    public = Statistics.mean(of_each_subject(with_built_in_data(configured(PRETRAINING), PUBLIC, work_dir=WORK_DIR)))
    start = public.solve(strength=STRENGTH)
    demo = with_built_in_data(configured(RunConfig()), SIMULATED, work_dir=WORK_DIR)
    real = replace(demo, data=replace(demo.data, dir=str(arguments.data.resolve())))

    print(f"\n{arguments.draws} draws, commit {commit()}, {platform.machine()}, one thread; PSNR in dB\n")
    print("| data | sites | subjects of each | public | " + " | ".join(f"epsilon {e:g}" for e in EPSILONS), end="")
    print(" | pooled fit | unclipped step |\n|" + "---|" * (6 + len(EPSILONS)))
    for name, config in (("built-in", demo), (arguments.data.name, real)):
        subjects = of_each_subject(config)
        for sites in SITES:
            rows = [draw(subjects, sites=sites, start=start, gram=public.gram, seed=n) for n in range(arguments.draws)]
            cells = [interval([row[column] for row in rows]) for column in rows[0]]
            print(f"| {name} | {sites} | {len(subjects) * 3 // 4 // sites} | {' | '.join(cells)} |", flush=True)


def configured(defaults: RunConfig) -> RunConfig:
    return load_config(None, overrides={}, assignments=SETTINGS, defaults=defaults)


def of_each_subject(config: RunConfig) -> list[Statistics]:
    """The statistics of the prior's features of every subject."""
    scans = Scans.of(config.data)
    network, found = Network(config.task), discover(scans, ["T1", "T2", "PD"])
    preparation = Preparation.of(config.task, scans, cache_dir=Path(config.data.cache_dir).resolve(), whole=False)
    return [*readout_statistics(network, preparation.open(found.subjects), prior_alone=True).values()]


def draw(subjects: list[Statistics], *, sites: int, start: Vector, gram: Vector, seed: int) -> dict[str | float, float]:
    """{what the prior is: its PSNR} for one way to deal the subjects."""
    order = np.random.default_rng(seed).permutation(len(subjects))
    each = len(subjects) * 3 // 4 // sites
    training = [[subjects[n] for n in order[k * each : (k + 1) * each]] for k in range(sites)]
    test = [subjects[n] for n in order[sites * each :]]

    def quality(prior: Vector) -> float:
        return float(np.mean([psnr_db(subject.mean_square_error(prior)) for subject in test]))

    results: dict[str | float, float] = {"public": quality(start)}
    for epsilon in EPSILONS:
        release = planned_release(PrivacyConfig(epsilon=epsilon))
        steps = [
            noisy_newton_step(
                members,
                prior=start,
                gram=gram,
                count=each,
                noise_multiplier=release.noise_multiplier,
                noise=system_noise(),
            )
            for members in training
        ]
        told = [(step, each) for step in steps]
        step = common_step(told, noise_multiplier=release.noise_multiplier)
        results[epsilon] = quality(start + whitening(gram) @ step)
    everybody = [subject for members in training for subject in members]
    results["pooled"] = quality(Statistics.mean(everybody).solve(strength=STRENGTH))
    results["newton"] = quality(_noiseless(everybody, start=start, gram=gram))
    return results


def _noiseless(subjects: list[Statistics], *, start: Vector, gram: Vector) -> Vector:
    """The same Newton step, neither clipped nor noised."""
    common = Statistics.mean(subjects)
    white = whitening(gram)
    return start + white @ white @ (common.moment - common.gram @ start)


if __name__ == "__main__":
    main()
