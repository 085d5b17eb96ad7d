"""What the coordinator's own work costs with many sites, and whether its memory grows over the rounds.

    python -m benchmarks.many_sites [--sites 20 1000] [--rounds 20]
    python -m benchmarks.many_sites --sites 20 --rounds 200
    python -m benchmarks.many_sites --train --sites 2 --rounds 200

The server app runs over the in-process engine with a toy network. A toy site sends the weights back with figures, so
everything but its own lines is the engine's work: messages, checks, aggregation, events, checkpoint. Each row is a
process of its own. The first round is left out; memory is what the process holds after a round (VmRSS, Linux). With
`--train` the sites are real ones on small scans, in the same process: then the time is theirs too.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from string import ascii_uppercase

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.protocol import Reply
from agi_core.run import events, progress, run_folder
from client import app as site
from server.app import app as server_app
from simulations.local_grid import run_in_process
from tests.support.small_data import SMALL, write_ixi
from tests.support.small_federation import federate

FIGURES = {"psnr_db": 20.0, "ssim": 0.5, "mae": 0.1, "nmse": 0.2}
METRICS = {"train_loss": 0.1, "seconds": 1.0, "validation_subjects": 5.0} | {
    f"{prefix}{name}": value for prefix in ("", "validation_") for name, value in FIGURES.items()
}
TOY = ("model.widths=[4,8]", "model.conv=plain", "model.alignment=none", "model.prior=none", "personal=none")


class ToySite(ClientApp):
    """Sends the weights back, each time a little further, and counts its own CPU time."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu_s = 0.0

    def __call__(self, message: Message, context: Context) -> Message:
        started = time.process_time()
        request = site._read(message)
        for flat in request.weights.arrays.values():
            flat += 1e-6
        reply = Reply(
            run_id=request.run_id,
            round=request.round,
            nonce=request.nonce,
            num_examples=10,
            metrics=METRICS,
            steps=1,
            weights=request.weights if request.action == "train" else None,
        )
        answer = Message(site._records(reply), reply_to=message)
        self.cpu_s += time.process_time() - started
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=[20, 1000])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--train", action="store_true", help="real sites, which train")
    parser.add_argument("--alone", action="store_true", help="work here, for the first number of sites")
    asked = parser.parse_args()
    if asked.alone:
        here(asked.sites[0], rounds=asked.rounds, train=asked.train)
        return
    print("| sites | rounds | ms of CPU per site and round | MiB after a tenth of the rounds | at the end |")
    print("|---|---|---|---|---|")
    for sites in asked.sites:
        options = ["--sites", str(sites), "--rounds", str(asked.rounds), *["--train"] * asked.train, "--alone"]
        subprocess.run([sys.executable, "-m", "benchmarks.many_sites", *options], check=True)


def here(sites: int, *, rounds: int, train: bool) -> None:
    """Print a row."""
    app, spent, held = ToySite(), [], []

    def on_news(news: progress.News) -> None:
        if isinstance(news, events.RoundFinished):
            assert len(news.sites) == sites
            spent.append(time.process_time() - app.cpu_s)
            held.append(resident_mib())

    with tempfile.TemporaryDirectory() as folder, progress.listening(on_news):
        if train:
            data_dir = write_ixi(Path(folder, "ixi"), dict.fromkeys(ascii_uppercase[:sites], 4))
            data = {"data.dir": str(data_dir), "data.cache_dir": f"{folder}/cache", "clients": sites}
            federate(settings(rounds, *SMALL, **data), Path(folder, "run"))
        else:
            names = [f"site{number:04}" for number in range(sites)]
            run_folder.create(Path(folder, "run"), settings(rounds, *TOY, **{"federation.sites": names}))
            node_configs = [{"site": name} for name in names]
            run_in_process(server_app, app, node_configs=node_configs, run_config={"run-dir": f"{folder}/run"})
    each_ms = 1000 * (spent[-1] - spent[0]) / (rounds - 1) / sites
    print(f"| {sites} | {rounds} | {each_ms:.2f} | {held[rounds // 10 - 1]:.0f} | {held[-1]:.0f} |", flush=True)


def settings(rounds: int, *assignments: str, **overrides: object) -> RunConfig:
    return load_config(None, overrides={"reference": "T1", **overrides}, assignments=[*assignments, f"rounds={rounds}"])


def resident_mib() -> float:
    """Of this process now."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
