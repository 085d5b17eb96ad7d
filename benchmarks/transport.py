"""A round of 25 million float32 parameters: ours against plain Flower's, in one run on one machine.

    python benchmarks/transport.py [--rounds 4] [--only plain float32 float16]

Three hospitals on loopback with TLS, node keys and a database, and the same SuperLink settings (`python -m server up`)
for all. Plain Flower: the stock FedAvg ServerApp, and a stock ClientApp without torch under flower-supernode's default
isolation, which adds a number to 50 arrays; no evaluation. Ours: everything that a run does, with a model of as many
parameters, which trains one step. A round lasts from the end of the one before it to its own; the first, in which
caches and models are made, is not counted. Targets: 0.5 of plain Flower's median with float32, 0.4 with float16.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from textwrap import dedent

import numpy as np

from agi_core.host.flower_environment import BIN_DIR, flower_environment
from agi_core.run.events import RoundStarted, RunPaused
from benchmarks.deployed import (
    SITES,
    coordinator,
    cpu_seconds,
    free_port,
    hospital,
    our,
    running,
    submit,
    timed_events,
    wait_for,
)
from client.process.join import environment
from client.site.file import read_deployed_site
from server.coordinator import CoordinatorDir
from server.flower_cli import CONNECTION

PARAMETERS, ARRAYS = 25_000_000, 50
MODEL = ("model.conv=plain", "model.widths=[256,512,768]")  # 24,983,809 parameters
PLAIN = "plain"

PYPROJECT = """
    [project]
    name = "plain"
    version = "1.0.0"
    description = "Stock FedAvg"
    license = "Apache-2.0"

    [tool.flwr.app]
    publisher = "benchmark"
    fab-include = ["plain_server.py", "plain_client.py"]

    [tool.flwr.app.components]
    serverapp = "plain_server:app"
    clientapp = "plain_client:app"

    [tool.flwr.app.config]
    rounds = 1
    times = ""
    """
SERVER_APP = f"""
    import time

    import numpy as np
    from flwr.app import Array, ArrayRecord
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg

    app = ServerApp()

    @app.main()
    def main(grid, context):
        rng = np.random.default_rng(0)
        arrays = {{f"a{{i}}": rng.random({PARAMETERS // ARRAYS}, dtype=np.float32) for i in range({ARRAYS})}}
        initial = ArrayRecord({{name: Array(array) for name, array in arrays.items()}})

        def note(round, arrays):
            with open(context.run_config["times"], "a") as file:
                print(time.time(), file=file)

        strategy = FedAvg(fraction_evaluate=0, min_train_nodes={len(SITES)}, min_available_nodes={len(SITES)})
        strategy.start(grid, initial, num_rounds=context.run_config["rounds"], evaluate_fn=note)
    """
CLIENT_APP = """
    import numpy as np
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message, context):
        step = np.float32(context.node_config["step"])
        arrays = {name: Array(array.numpy() + step) for name, array in message.content["arrays"].items()}
        records = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(records), reply_to=message)
    """


def main() -> None:
    parser = argparse.ArgumentParser(description="A round of 25 million parameters against plain Flower's.")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--only", nargs="+", choices=(PLAIN, "float32", "float16"), default=(PLAIN, "float32", "float16")
    )
    options = parser.parse_args()
    medians: dict[str, np.ndarray] = {}
    rows, phases = dict[str, str](), dict[str, list[float]]()
    for transport in options.only:
        with tempfile.TemporaryDirectory() as place, cpu_seconds() as samples:
            if transport == PLAIN:
                ends = plain(Path(place), options.rounds)
            else:
                ends, phases[transport] = ours(Path(place), transport, options.rounds)
        seconds = np.diff(ends[1:])
        cpu_s = np.diff(np.interp(ends[1:], *np.transpose(samples)))
        medians[transport] = np.median([seconds, cpu_s], axis=1)
        rows[transport] = f"{', '.join(f'{s:.1f}' for s in seconds)} | {os.getloadavg()[0]:.1f}"
        print(f"{transport}: {rows[transport]}", file=sys.stderr, flush=True)
    print(
        "| transport | s per round: median | of plain Flower's | CPU s per round | of plain Flower's | rounds | load |"
    )
    print("|---|---|---|---|---|---|---|")
    for transport, (wall_s, cpu_s) in medians.items():
        wall, cpu = medians[transport] / medians.get(PLAIN, np.full(2, np.nan))
        print(f"| {transport} | {wall_s:.1f} | {wall:.2f} | {cpu_s:.1f} | {cpu:.2f} | {rows[transport]} |")
    print("\n| transport | to the last site | at the sites | until the next round |")
    print("|---|---|---|---|")
    for transport, phase in phases.items():
        print(f"| {transport} | {' | '.join(f'{s:.1f}' for s in phase)} |")


def plain(folder: Path, rounds: int) -> list[float]:
    """Times at which plain Flower began its first round and ended each."""
    times_path, app_dir, run_config_path = folder / "times.txt", folder / "app", folder / "run.toml"
    app_dir.mkdir()
    files = {"pyproject.toml": PYPROJECT, "plain_server.py": SERVER_APP, "plain_client.py": CLIENT_APP}
    for name, text in files.items():
        (app_dir / name).write_text(dedent(text))
    run_config_path.write_text(f"rounds = {rounds}\ntimes = {json.dumps(str(times_path))}\n")
    made = CoordinatorDir(folder / "coordinator")
    with ExitStack() as stack:
        port = stack.enter_context(coordinator(made.path))
        for number, name in enumerate(SITES, start=1):
            site = read_deployed_site(hospital(folder, name, made.path, port))
            node = [
                str(BIN_DIR / "flower-supernode"),
                *("--superlink", site.coordinator.address, "--root-certificates", site.coordinator.ca_file),
                *("--auth-supernode-private-key", site.key_file, "--node-config", f"step={number / 10}"),
                *("--host", "127.0.0.1", "--port", str(free_port())),
            ]
            stack.enter_context(running(folder / f"{name}.log", node, environment(Path(site.state_dir))))
        run = [str(BIN_DIR / "flwr"), "run", str(app_dir), CONNECTION, "--run-config", str(run_config_path)]
        subprocess.run(run, env=flower_environment(made.flwr_home), cwd=folder, check=True, stdout=subprocess.DEVNULL)
        wait_for(lambda: times_path.is_file() and len(times_path.read_text().split()) > rounds, "plain Flower's end")
    return [float(line) for line in times_path.read_text().split()]


def ours(folder: Path, transport: str, rounds: int) -> tuple[list[float], list[float]]:
    """Times at which our rounds began, one more than `rounds`, so that each ends with its state on disk; and the median
    seconds of a round's three phases. Nobody waits for the rest of the run."""
    coordinator_dir = folder / "coordinator"
    with ExitStack() as stack:
        port = stack.enter_context(coordinator(coordinator_dir))
        for name in SITES:
            site_path = hospital(folder, name, coordinator_dir, port)
            stack.enter_context(running(folder / f"{name}.log", our("client", "--site-file", str(site_path))))
        settings = (f"rounds={rounds + 1}", f"federation.transport={transport}", *MODEL)
        run_dir = submit(coordinator_dir, transport, *settings)
        wait_for(lambda: len(begins_of(run_dir)) > rounds, "our last round")
        begins = begins_of(run_dir)
    phases = []
    for begin, end in itertools.pairwise(begins[1:]):
        work = [site_work(folder / "state" / name / "logs" / "runner.log", begin) for name in SITES]
        received, answered = (max(times) for times in zip(*work, strict=True))
        phases.append((received - begin, answered - received, end - answered))
    return begins, [statistics.median(seconds) for seconds in zip(*phases, strict=True)]


def begins_of(run_dir: Path) -> list[float]:
    """Times at which the run's rounds began."""
    events = timed_events(run_dir)
    paused = [event.reason for _, event in events[-1:] if isinstance(event, RunPaused)]
    assert not paused, paused
    return [time for time, event in events if isinstance(event, RoundStarted)]


def site_work(log_path: Path, begin: float) -> tuple[float, float]:
    """When a site's runner had the first request after `begin`, and when it had the answer to it."""
    lines = re.findall(r"^(\S+ \S+) INFO client: (training|answered)", log_path.read_text(), re.M)
    times = ((datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").timestamp(), what) for at, what in lines)
    late = [(at, what) for at, what in times if at > begin]
    return next(at for at, what in late if what == "training"), next(at for at, what in late if what == "answered")


if __name__ == "__main__":
    main()
