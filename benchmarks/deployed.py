"""A coordinator and three hospitals on this machine, started by the commands that people type."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np

from agi_core.host.processes import descendants
from agi_core.run.event_log import read_events
from agi_core.run.events import Event

SITES = ("hospitalA", "hospitalB", "hospitalC")
SUBJECTS = 10
TRIVIAL = (  # next to nothing to do at a site
    *("grid.crop=[16,16]", "model.alignment=none", "training.local_steps=1", "training.batch_size=1"),
    *("evaluation.validation_slices=1", "reference=T1", "federation.wait_s=300"),
)
LIMIT_S = 1800.0
ROOT = Path(__file__).parents[1]
# What Debian's own nginx.conf gives to deploy/nginx.conf, in one folder.
NGINX_CONF = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/agi-fed.conf;
}}
"""


@contextmanager
def coordinator(folder: Path) -> Iterator[int]:
    """A coordinator with certificates and a database in `folder`, ready for hospitals; its SuperLink's port."""
    port = free_port()
    server("certs", folder, "--name", "localhost")
    ports = ("--port", str(port), "--health-port", str(free_port()))
    with running(folder.with_suffix(".log"), our("server", "up", "--dir", str(folder), *ports)):
        wait_for(lambda: (folder / "flwr" / "config.toml").is_file() and accepts(port), "the coordinator")
        yield port


@contextmanager
def gateway(folder: Path, coordinator_dir: Path, port: int) -> Iterator[int]:
    """nginx with deploy/nginx.conf before the SuperLink at `port`; the port that hospitals see."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        sys.exit("nginx is not installed: apt-get install nginx-light")
    public_port = free_port()
    conf = (ROOT / "deploy" / "nginx.conf").read_text()
    conf = conf.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace("listen 443", f"listen 127.0.0.1:{public_port}")
    folder.mkdir()
    (folder / "agi-fed.conf").write_text(conf.replace("/var/lib/agi-fed/coordinator", str(coordinator_dir)))
    (folder / "nginx.conf").write_text(NGINX_CONF.format(folder=folder))
    command = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with running(folder / "nginx.log", command):
        wait_for(lambda: accepts(public_port), "nginx")
        yield public_port


def hospital(folder: Path, site: str, coordinator_dir: Path, port: int) -> Path:
    """The site file of a new hospital with small scans and a registered key, which connects to `port`."""
    write_scans(folder / "scans" / site, seed=SITES.index(site))
    site_path = folder / "sites" / f"{site}.yaml"
    place = ("--data", str(folder / "scans" / site), "--coordinator", f"localhost:{port}")
    certs_dir = coordinator_dir / "certs"
    keys = ("--ca", str(certs_dir / "ca.crt"), "--coordinator-key", str(certs_dir / "coordinator.pub"))
    call("client", "--site-file", str(site_path), "--init", *place, *keys)
    site_path.write_text(site_path.read_text().replace("runtime_port: 9094", f"runtime_port: {free_port()}"))
    register = ("--name", site, "--subjects", str(SUBJECTS), str(folder / "state" / site / "key" / "node.pub"))
    server("register", coordinator_dir, *register)
    return site_path


def submit(coordinator_dir: Path, name: str, *settings: str) -> Path:
    """Start a run; the path of its folder."""
    server("submit", coordinator_dir, "--name", name, *TRIVIAL, *settings)
    return coordinator_dir / "runs" / name


def federate(coordinator_dir: Path, name: str, *settings: str) -> Path:
    """Start a run and wait for its end; the path of its folder."""
    run_dir = submit(coordinator_dir, name, *settings)
    wait_for(lambda: (run_dir / "report.html").is_file(), "the end of the run")
    assert (run_dir / "summary.json").is_file(), f"the run did not finish; see {run_dir / 'events.jsonl'}"
    return run_dir


def timed_events(run_dir: Path) -> list[tuple[float, Event]]:
    """The run's events, each after its time by the clock: the last line was written when the file was."""
    path = run_dir / "events.jsonl"
    events = read_events(run_dir) if path.is_file() else []
    zero = path.stat().st_mtime - events[-1].t_s if events else 0.0
    return [(zero + t_s, event) for t_s, event in events]


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
def running(log_path: Path, command: list[str], variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """A command within the block, with one thread; its output goes to a file."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextmanager
def cpu_seconds() -> Iterator[list[tuple[float, float]]]:
    """Within the block: (time, CPU seconds that all descendants of this process have used so far), once a second."""
    samples: list[tuple[float, float]] = []
    end = threading.Event()

    def sample() -> None:
        while not end.wait(1):
            samples.append((time.time(), sum(map(_cpu_s, descendants()))))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        end.set()
        thread.join()


def _cpu_s(process: int) -> float:
    """Of a process and of its children that have ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def our(package: str, *arguments: str) -> list[str]:
    """A command of ours."""
    return [sys.executable, "-m", package, *arguments]


def call(package: str, *arguments: str) -> None:
    subprocess.run(our(package, *arguments), check=True, stdout=subprocess.DEVNULL)


def server(command: str, coordinator_dir: Path, *arguments: str) -> None:
    call("server", command, "--dir", str(coordinator_dir), *arguments)


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
