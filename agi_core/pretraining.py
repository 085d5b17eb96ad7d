"""Pre-training: initial weights from data that nobody needs to protect, without privacy.

Nobody needs to protect built-in data, so `python -m agi_core pretrain --out FILE` needs nothing else. Its sites are
made for pre-training: their subjects and scanners are not those of the other built-in data. In the layout of IXI,
repetition and echo times are up to 10 % away from those of Guys and HH, gain and shading are further away, and there is
no gradient-echo T1 as at IOP. All built-in data shares four anatomies and the signal equations.
"""

from pathlib import Path

import torch
from safetensors.numpy import save

from agi_core.config.load import task_hash, task_json
from agi_core.config.schema import DataConfig, RunConfig, TrainingConfig
from agi_core.data.datasets import TrainingSlices
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans, discover
from agi_core.host import atomic
from agi_core.network import Network
from agi_core.readout import readout_statistics
from agi_core.ridge import STRENGTH, Statistics
from agi_core.run import progress
from agi_core.scenario import parse_scenario
from agi_core.training import train_round

PRETRAINING = RunConfig(
    rounds=1,
    training=TrainingConfig(local_steps=2400, batch_size=4),
    data=DataConfig(phantom_sites="PublicA:8,PublicB:8,PublicC:8,PublicD:8"),
)
"""The settings of a pre-training where the user gives none."""


def pretrain(config: RunConfig, out_path: Path, *, device: torch.device) -> None:
    """Train on all subjects of `config.data` and write the weights, with the task that made them, as safetensors.

    Raises:
        AgiError: no usable scans, or a file cannot be written.
    """
    task, scans = config.task, Scans.of(config.data)
    found = discover(scans, parse_scenario(task.scenario).modalities)
    cache_dir = Path(config.data.cache_dir)
    preparation = Preparation.of(task, scans, cache_dir=cache_dir, whole=False, threads=config.threads)
    sessions = preparation.open(found.subjects, on_session=progress.steps_of("reading public scans"))
    network, slices = Network(task, device=device, compiled=config.compile), TrainingSlices.of(task, sessions)
    if network.prior is not None:
        statistics = Statistics.mean([*readout_statistics(network, sessions, prior_alone=True).values()])
        network.set_prior(statistics.solve(strength=STRENGTH), gram=statistics.gram)
    on_step = progress.steps_of("pre-training")
    for round in range(1, config.rounds + 1):
        train_round(network.module, slices.draw, task=task, site="public", round=round, on_step=on_step)
    text = task_json(task)
    metadata = {"task": text, "task_hash": task_hash(text)}
    atomic.write_bytes(out_path, save(network.weights, metadata=metadata))
