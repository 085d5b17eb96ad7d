"""Starting and ending `flower-superlink` (`server.guarded_superlink`), with documented flags only.

It serves hospitals (`/v1/fleet/`) and the `flwr` command (`/v1/control/`, which has no login) on one port. Therefore it
listens on loopback, and a reverse proxy exposes the first path only.
"""

import contextlib
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from agi_core.errors import RunError
from agi_core.host import lock
from agi_core.host.flower_environment import flower_environment
from agi_core.host.logs import LOG_BYTES, begin_anew
from agi_core.host.processes import adopt_orphans, descendants, die_with, end_descendants, has_ended
from server import flower_cli
from server.coordinator import CoordinatorDir

START_S, STOP_S, LOOK_S = 120.0, 6.0, 1.0
SUPERLINK = "flower-superlink"
PAGE_BYTES = 16384


def command(coordinator: CoordinatorDir, *, host: str, port: int, health_port: int) -> list[str]:
    """The whole command line of `flower-superlink`."""
    certificates = coordinator.certificates
    return [
        *(sys.executable, "-m", "server.guarded_superlink"),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(certificates.ca_path)),
        *("--ssl-certfile", str(certificates.server_path)),
        *("--ssl-keyfile", str(certificates.server_key_path)),
        "--enable-supernode-auth",
        *("--database", str(coordinator.database_path)),
        "--disable-runtime-dependency-installation",
        *("--health-server-address", f"127.0.0.1:{health_port}"),
        *("--log-file", str(coordinator.log_path)),
    ]


@contextlib.contextmanager
def running(coordinator: CoordinatorDir, *, host: str, port: int, health_port: int) -> Iterator[None]:
    """`flower-superlink` runs in the block, healthy. At its end all children of this process are gone, and theirs.

    Raises:
        RunError: one runs in this folder already, a port is taken, or it does not become healthy; the message names the
            log.
    """
    with _only_one(coordinator):
        _check_free(host, port)
        _check_free("127.0.0.1", health_port)
        address = f"{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104  a comparison, not a bind
        flower_cli.write_connection(coordinator, address=address)
        _make_database(coordinator.database_path)
        adopt_orphans()
        with coordinator.output_path.open("ab") as output:
            process = subprocess.Popen(
                command(coordinator, host=host, port=port, health_port=health_port),
                env=flower_environment(coordinator.flwr_home),
                cwd=coordinator.path,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this program alone, which ends the others in order
                preexec_fn=partial(die_with, os.getpid()),
            )
        try:
            _wait_until_healthy(process, coordinator, address=address)
            yield
        finally:
            end_descendants(within_s=STOP_S)


def programs() -> dict[int, str]:
    """{id: name} of the programs that run now below this process, whoever started them."""
    return {process: _name_of(process) for process in descendants()}


def wait_for_an_end(coordinator: CoordinatorDir, watched: Mapping[int, str]) -> str:
    """Wait until one of these programs ends; its name. Meanwhile what they print is kept short.

    SuperLink does not notice that the `flower-superexec` which it started is gone. Then no run starts any more, while
    everything looks well.
    """
    while True:
        if ended := [name for process, name in watched.items() if has_ended(process)]:
            return SUPERLINK if SUPERLINK in ended else ended[0]  # the others end with it
        with contextlib.suppress(OSError, RunError):  # a full disk ends nothing here
            if coordinator.output_path.stat().st_size > LOG_BYTES:
                begin_anew(coordinator.output_path)
        time.sleep(LOOK_S)


def _name_of(process: int) -> str:
    """Its program: `flower-superexec`, for example. One that has just ended has no name any more."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        words = [""]
    if "server.guarded_superlink" in words:
        return SUPERLINK
    programs = (Path(word).name for word in words)
    return next((name for name in programs if name.startswith("flower-")), words[0] or "a program")


@contextlib.contextmanager
def _only_one(coordinator: CoordinatorDir) -> Iterator[None]:
    """On ports of its own a second one would start: on the same database, and with the connection of `flwr` to it."""
    with coordinator.up_lock_path.open("a", encoding="utf-8") as file:
        if not lock.take(file):
            raise RunError(
                f"a coordinator runs in {coordinator.path} already; stop it first: Ctrl-C in its terminal, or sudo"
                " systemctl stop agi-fed-coordinator"
            )
        yield


def _make_database(path: Path) -> None:
    """Make an empty database for Flower to fill, if there is none. Its pages are large, because it holds weights in
    pieces of 5 MiB. With SQLite's usual pages of 4 KiB, writing takes twice as long (`benchmarks/results.md`)."""
    if path.exists():
        return
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("VACUUM")  # writes the first page, which fixes the size


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RunError(
                f"cannot listen on {host}:{port} ({error.strerror}); does a coordinator of another folder run"
                " there? Stop it, or choose --port and --health-port"
            ) from None


def _wait_until_healthy(process: subprocess.Popen[bytes], coordinator: CoordinatorDir, *, address: str) -> None:
    context = ssl.create_default_context(cafile=coordinator.certificates.ca_path)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    deadline = time.monotonic() + START_S
    problem = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RunError(f"flower-superlink ended with code {process.returncode}; see {coordinator.log_path}")
        try:
            with opener.open(f"https://{address}/health", timeout=2):
                return
        except OSError as error:
            problem = str(error)
        time.sleep(0.2)
    raise RunError(f"flower-superlink is not healthy after {START_S:.0f} s ({problem}); see {coordinator.log_path}")
