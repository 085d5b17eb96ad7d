"""What one hostile site of five costs: PSNR with and without the update gate and a robust aggregation. Resumable.

    python benchmarks/poisoning.py [--seeds 0,1,2] [--out runs/poisoning]

The largest site sends back sent - 10 (trained - sent): its update with the sign flipped, ten times as large. Real
server and client apps in one process, on built-in synthetic data, with a small model. Aim: with gate and trimmed mean
at most 1 dB is lost against the clean run.
"""

import argparse
import platform
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from agi_core.config.load import load_config
from agi_core.config.schema import Aggregation, RunConfig
from agi_core.data.phantom.built_in import SIMULATED, with_built_in_data
from agi_core.protocol import ARRAYS, TRAIN, Reply, Request, unpack
from agi_core.run import run_folder
from agi_core.run.event_log import events_of
from agi_core.run.events import ModelTested
from benchmarks.commit import commit
from benchmarks.results import interval
from client.app import app as client_app
from server import rounds
from server.app import app as server_app
from server.update_gate import Verdict, judge_updates, read_update
from simulations.local_grid import run_in_process
from simulations.simulation import BUILT_IN_DIR
from simulations.sites import find_sites, prepare_caches, write_sites

SETTINGS: tuple[str, ...] = (
    "rounds=10",
    "reference=T2",
    "training.local_steps=16",
    "model.widths=[8,16]",
    "model.alignment=none",
    "grid.crop=[64,64]",
)
SETTINGS += ("evaluation.validation_slices=4", "data.phantom_sites=Guys:12,HH:10,IOP:6", "federation.quorum=4")
SETTINGS += ("model.prior=none", "personal=none")
VARIANTS: dict[str, tuple[bool, bool, Aggregation]] = {  # attacked, gate, aggregation
    "clean, mean": (False, True, "mean"),
    "clean, trimmed mean": (False, True, "trimmed_mean"),
    "attacked, no gate, mean (FedAvg)": (True, False, "mean"),
    "attacked, gate, mean": (True, True, "mean"),
    "attacked, gate, trimmed mean": (True, True, "trimmed_mean"),
}


class Poisoner(ClientApp):
    """The sites' real app, but one site flips the sign of its update and multiplies it by ten."""

    def __init__(self, hostile: str) -> None:
        super().__init__()
        self._hostile = hostile

    def __call__(self, message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if context.node_config["site"] == self._hostile and message.metadata.message_type == TRAIN:
            sent, trained = (some.content.array_records[ARRAYS] for some in (message, reply))
            flipped = {dtype: 11 * sent[dtype].numpy() - 10 * trained[dtype].numpy() for dtype in trained}
            reply.content[ARRAYS] = ArrayRecord({dtype: Array(flat) for dtype, flat in flipped.items()})
        return reply


def accept_everything(replies: Mapping[str, Reply], request: Request, *, config: RunConfig) -> Verdict[object]:
    """In the place of the gate: the form is checked, the size is not."""
    sent, task = unpack(request.weights), config.task
    return Verdict({s: read_update(reply, request, s, sent=sent, task=task) for s, reply in replies.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description="One hostile site of five: what gate and trimmed mean keep.")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/poisoning"), help="folder of the runs (%(default)s)")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    torch.set_num_threads(1)
    psnr = {name: [run(name, seed, arguments.out) for seed in seeds] for name in VARIANTS}
    print(f"\n`{' '.join(SETTINGS)}`; {len(seeds)} seeds, commit {commit()}, {platform.machine()}, one thread\n")
    print("| run | test PSNR, dB | minus clean FedAvg, dB |\n|---|---|---|")
    for name, values in psnr.items():
        lost = [value - clean for value, clean in zip(values, psnr["clean, mean"], strict=True)]
        print(f"| {name} | {interval(values)} | {interval(lost)} |")


def run(name: str, seed: int, out_dir: Path) -> float:
    """Test PSNR in dB of one variant; a run that is there already is read, or gone on with."""
    attacked, gate, aggregation = VARIANTS[name]
    run_dir = (out_dir / f"{name.replace(', ', '-').replace(' ', '_')}-seed{seed}").resolve()
    assignments = (*SETTINGS, f"seed={seed}", f"federation.aggregation={aggregation}")
    config, federation = find_sites(
        with_built_in_data(load_config(None, overrides={}, assignments=assignments), SIMULATED, work_dir=BUILT_IN_DIR)
    )
    if not run_dir.exists():
        prepare_caches(config, federation)
        run_folder.create(run_dir, config)
    site_paths = write_sites(run_dir, config, federation)
    node_configs = [{"site": site, "site-config": str(path)} for site, path in site_paths.items()]
    hostile = max(federation.training, key=lambda site: len(federation.training[site]))
    app = Poisoner(hostile) if attacked else client_app
    with patch.object(rounds, "judge_updates", judge_updates if gate else accept_everything):
        run_in_process(server_app, app, node_configs=node_configs, run_config={"run-dir": str(run_dir)})
    (psnr_db,) = [tested.scores.final["psnr_db"] for tested in events_of(run_dir, ModelTested)]
    print(f"{name}, seed {seed}: {psnr_db:.2f} dB", flush=True)
    return psnr_db


if __name__ == "__main__":
    main()
