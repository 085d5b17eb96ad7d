"""What the statistics of the prior cost a site, beside the rounds that it trains.

    python -m benchmarks.prior_cost [--subjects 8] [--turns 3]

The statistics of all training subjects are computed once in a run, before its first round. They take turns with local
steps, in CPU time, on entries of a real session's size and with the default network; `round` is `training.local_steps`
of them, without validation.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from agi_core.config.load import load_config
from agi_core.data.datasets import TrainingSlices
from agi_core.host.device import open_device
from agi_core.network import Network
from agi_core.readout import readout_statistics
from agi_core.training import train_round
from benchmarks.data_wait import open_entries, write_entries

STEPS = 4  # of a turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    open_device("cpu", threads=1)
    task = load_config(None, overrides={"reference": "T1"}, assignments=[]).task
    steps, few = task.training.local_steps, replace(task, training=replace(task.training, local_steps=STEPS))
    with tempfile.TemporaryDirectory() as folder:
        entries = open_entries(write_entries(Path(folder), asked.subjects))
        network, slices = Network(task), TrainingSlices.of(task, entries)

        def train() -> None:
            train_round(network.module, slices.draw, task=few, site="A", round=1)

        turns = [
            (cpu_s(lambda: readout_statistics(network, entries, prior_alone=True)), cpu_s(train) / STEPS)
            for _ in range(asked.turns)
        ]
    subject_s, step_s = (median(column) for column in zip(*turns, strict=True))
    subject_s /= asked.subjects
    share = median(all_s / (steps * one_s) for all_s, one_s in turns)
    print(f"{subject_s:.2f} s a subject, {step_s:.2f} s a step: {share:.1%} of a round with {asked.subjects} subjects")


def cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
