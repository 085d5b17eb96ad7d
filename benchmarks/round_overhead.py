"""Seconds per round of a deployed federation whose sites have next to nothing to do: what the machinery costs.

    python benchmarks/round_overhead.py [--rounds 10]

A coordinator with TLS, node keys and a database, and three hospitals, all on this machine, started by the commands that
people type. The model is tiny and trains one step, so a round is transport, waiting and aggregation. The target is a
median of 7 s at most.
"""

import argparse
import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import nibabel
import numpy as np

from agi_core.run_folder import read_events

SITES = ("hospitalA", "hospitalB", "hospitalC")
SUBJECTS = 10
TRIVIAL = (
    *("model.widths=[8,16]", "grid.crop=[16,16]", "training.local_steps=1", "training.batch_size=1"),
    *("evaluation.validation_slices=1", "reference=T1", "federation.wait_s=120"),
)
LIMIT_S = 900.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds per round of a deployed federation with a trivial model.")
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        run_dir = federate(Path(folder), rounds)
        events = read_events(run_dir)
    started = next(event["t_s"] for event in events if event["event"] == "round_started")
    finished = [event for event in events if event["event"] == "round_finished"]
    ends = [started, *(event["t_s"] for event in finished)]
    seconds = [end - begin for begin, end in itertools.pairwise(ends)]
    work = [max(event["seconds"].values()) for event in finished]
    print("| sites | rounds | seconds per round: median | smallest | largest | of it the slowest site's work: median |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {len(SITES)} | {len(seconds)} | {statistics.median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f}"
        f" | {statistics.median(work):.2f} |"
    )


def federate(folder: Path, rounds: int) -> Path:
    """Run the federation in `folder`; the path of the finished run."""
    coordinator, port = folder / "coordinator", free_port()
    server("certs", coordinator, "--name", "localhost")
    with ExitStack() as stack:
        stack.enter_context(running(folder, "server", "up", "--dir", str(coordinator), *ports(port)))
        wait_for(lambda: (coordinator / "flwr" / "config.toml").is_file() and accepts(port), "the coordinator")
        for number, site in enumerate(SITES):
            write_scans(folder / "scans" / site, seed=number)
            site_path = folder / "sites" / f"{site}.yaml"
            place = ("--data", str(folder / "scans" / site), "--coordinator", f"localhost:{port}")
            call("client", "--site-file", str(site_path), "--init", *place, "--ca", str(coordinator / "certs/ca.crt"))
            site_path.write_text(site_path.read_text().replace("runtime_port: 9094", f"runtime_port: {free_port()}"))
            key_path = folder / "state" / site / "key" / "node.pub"
            server("register", coordinator, "--name", site, str(key_path), "--subjects", str(SUBJECTS))
            stack.enter_context(running(folder, "client", "--site-file", str(site_path)))
        server("submit", coordinator, "--name", "overhead", f"rounds={rounds}", *TRIVIAL)
        run_dir = coordinator / "runs" / "overhead"
        wait_for(lambda: (run_dir / "report.html").is_file(), "the end of the run")
    return run_dir


def write_scans(data_dir: Path, *, seed: int) -> None:
    """Small scans in the names of IXI: an ellipsoid with a pattern inside."""
    rng = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in (40, 36, 8)], indexing="ij")
    radius = (i / 0.8) ** 2 + (j / 0.75) ** 2 + (k / 1.2) ** 2
    data_dir.mkdir(parents=True)
    for number in range(100 + 100 * seed, 100 + 100 * seed + SUBJECTS):
        for contrast, modality in enumerate(("T1", "T2", "PD"), start=1):
            head = 600 * (radius < 1) * (0.5 + 0.5 * np.sin(contrast * (5 * i + 3 * j)) * np.exp(-radius))
            data = (head + np.abs(rng.normal(0, 12, head.shape))).astype(np.int16)
            image = nibabel.Nifti1Image(data, np.diag([4.0, 4.0, 8.0, 1.0]))
            nibabel.save(image, data_dir / f"IXI{number}-Guys-{1000 + number}-{modality}.nii.gz")


@contextmanager
def running(folder: Path, package: str, *arguments: str) -> Iterator[None]:
    """A command of ours within the block, with one thread; its output goes to a file of `folder`."""
    with (folder / f"{package}-{free_port()}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", package, *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def call(package: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", package, *arguments], check=True, stdout=subprocess.DEVNULL)


def server(command: str, coordinator: Path, *arguments: str) -> None:
    call("server", command, "--dir", str(coordinator), *arguments)


def ports(port: int) -> tuple[str, ...]:
    return ("--port", str(port), "--health-port", str(free_port()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {LIMIT_S:.0f} s"
        time.sleep(0.2)


if __name__ == "__main__":
    main()
