"""What the prior and the last layer of its own cost a site, beside the rounds that it trains.

    python -m benchmarks.closed_form_cost [--subjects 8] [--turns 3]

The statistics of the prior are computed once in a run, before its first round. The last layer is solved at its end, and
at each validation where that is asked; the prior's statistics are kept until then. Both take turns with local steps, in
CPU time, on entries of a real session's size and with the default network; `round` is `training.local_steps` of them,
without validation.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from agi_core.config.load import load_config
from agi_core.data.datasets import TrainingSlices
from agi_core.host.device import open_device
from agi_core.network import Network
from agi_core.readout import own_readout, readout_statistics
from agi_core.training import train_round
from benchmarks.data_speed import cpu_s
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

        known = readout_statistics(network, entries, prior_alone=True)

        def solve() -> None:
            own_readout(network, entries, prior_statistics=known)

        turns = [
            (cpu_s(lambda: readout_statistics(network, entries, prior_alone=True)), cpu_s(solve), cpu_s(train) / STEPS)
            for _ in range(asked.turns)
        ]
    print(f"{median(step_s for _, _, step_s in turns):.2f} s a step, {asked.subjects} subjects\n")
    print("| | s a subject | of a round |\n|---|---|---|")
    for name, of_turns in (
        ("statistics of the prior", [(prior_s, step_s) for prior_s, _, step_s in turns]),
        ("the last layer", [(layer_s, step_s) for _, layer_s, step_s in turns]),
    ):
        subject_s = median(all_s for all_s, _ in of_turns) / asked.subjects
        print(f"| {name} | {subject_s:.2f} | {median(all_s / (steps * step_s) for all_s, step_s in of_turns):.1%} |")


if __name__ == "__main__":
    main()
