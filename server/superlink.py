"""Flower's own programs at the coordinator: which processes are started, and with which documented flags.

`flower-superlink` serves hospitals (`/v1/fleet/`) and the `flwr` command (`/v1/control/`, which has no login) on one
port, so it listens on loopback and a reverse proxy exposes the first alone.
"""

import contextlib
import json
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.host.processes import adopt_orphans, die_with_parent, end_descendants
from server import strikes
from server.certificates import Certificates

CONNECTION = "agi"  # always named: without a name, flwr would start a simulation of its own
START_S, STOP_S, CALL_S = 120.0, 6.0, 180.0
BIN_DIR = Path(sys.executable).parent
PAGE_BYTES = 16384


@dataclass(frozen=True)
class Coordinator:
    """The coordinator's folder: everything that survives a restart."""

    dir: Path

    @property
    def certificates(self) -> Certificates:
        return Certificates(self.dir / "certs")

    @property
    def flwr_home(self) -> Path:
        return self.dir / "flwr"

    @property
    def runs_dir(self) -> Path:
        return self.dir / "runs"

    @property
    def sites_path(self) -> Path:
        return self.dir / "sites.json"

    @property
    def strikes_path(self) -> Path:
        return self.dir / strikes.FILE

    @property
    def database_path(self) -> Path:
        return self.dir / "state.db"

    @property
    def log_path(self) -> Path:
        return self.dir / "superlink.log"

    def environment(self) -> dict[str, str]:
        """Of every Flower process: no telemetry, no update check, no proxy for loopback, programs found in this very
        installation."""
        loopback = "127.0.0.1,localhost"
        return os.environ | {
            "FLWR_HOME": str(self.flwr_home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": ",".join(filter(None, [loopback, os.environ.get("NO_PROXY")])),
            "no_proxy": ",".join(filter(None, [loopback, os.environ.get("no_proxy")])),
            "PATH": f"{BIN_DIR}{os.pathsep}{os.environ.get('PATH', '')}",
        }


def command(coordinator: Coordinator, *, host: str, port: int, health_port: int) -> list[str]:
    """The whole command line of `flower-superlink`."""
    certificates = coordinator.certificates
    return [
        str(BIN_DIR / "flower-superlink"),
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
def running(coordinator: Coordinator, *, host: str, port: int, health_port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`flower-superlink`, healthy; at the end of the block all children of this process are gone, and theirs.

    Raises:
        RunError: a port is taken, or it does not become healthy; the message names the log.
    """
    for wanted in (port, health_port):
        _check_free(host if wanted == port else "127.0.0.1", wanted)
    _write_connection(coordinator, host=host, port=port)
    _make_database(coordinator.database_path)
    adopt_orphans()
    with (coordinator.dir / "superlink-output.log").open("ab") as output:
        process = subprocess.Popen(
            command(coordinator, host=host, port=port, health_port=health_port),
            env=coordinator.environment(),
            cwd=coordinator.dir,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this program alone, which ends the others in order
            preexec_fn=die_with_parent,
        )
    try:
        _wait_until_healthy(process, coordinator, address=f"{_own_address(host)}:{port}")
        yield process
    finally:
        end_descendants(within_s=STOP_S)


def _make_database(path: Path) -> None:
    """An empty database for Flower to fill, if there is none: with larger pages, because weights lie in it in pieces of
    5 MiB, and SQLite's usual pages of 4 KiB take twice as long to write them (`benchmarks/results.md`)."""
    if path.exists():
        return
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("VACUUM")  # writes the first page, which fixes the size


def run(coordinator: Coordinator, run_dir: Path) -> str:
    """Start the ServerApp on a run folder; returns Flower's id of the run.

    The bundle that Flower sends around holds no code: it names the apps that are installed, here and at each hospital.
    """
    with tempfile.TemporaryDirectory() as folder:  # flwr may rewrite the pyproject.toml that it is given
        app_dir = Path(folder) / "agi-fed"
        app_dir.mkdir()
        (app_dir / "pyproject.toml").write_text(_bundle())
        config_path = Path(folder) / "run.toml"
        paths = {"run-dir": run_dir, "strikes-path": coordinator.strikes_path}
        config_path.write_text("".join(f"{key} = {json.dumps(str(path.resolve()))}\n" for key, path in paths.items()))
        answer = _flwr(coordinator, "run", str(app_dir), CONNECTION, "--run-config", str(config_path))
    return str(answer["run-id"])


def stop(coordinator: Coordinator, flower_run: str) -> None:
    """Stop a run by Flower's id; one that has ended by itself meanwhile is no error."""
    try:
        _flwr(coordinator, "stop", flower_run, CONNECTION)
    except RunError as error:
        if "[code: 18]" not in str(error):
            raise


def run_status(coordinator: Coordinator, flower_run: str) -> tuple[str, str]:
    """Flower's word for the state of a run (pending, starting, running or finished:...), and why."""
    (row,) = _flwr(coordinator, "list", CONNECTION, "--run-id", flower_run)["runs"]
    return str(row["status"]), str(row["status-details"])


def register(coordinator: Coordinator, *, name: str, public_key_path: Path) -> int | None:
    """Allow the node with this key in, under this name; returns its node id, or None when it is let in already."""
    try:
        answer = _flwr(coordinator, "supernode", "register", str(public_key_path), CONNECTION, "--name", name)
        return int(answer["node-id"])
    except RunError as error:
        if "[code: 23]" in str(error):
            return None
        raise


def unregister(coordinator: Coordinator, node_id: int) -> None:
    """Shut a node out; a connected one is disconnected."""
    _flwr(coordinator, "supernode", "unregister", str(node_id), CONNECTION)


def nodes(coordinator: Coordinator) -> dict[int, dict[str, Any]]:
    """{node id: {"status": "registered" (never seen), "online" or "offline", "online-at", "offline-at"}}."""
    rows = _flwr(coordinator, "supernode", "list", CONNECTION)["nodes"]
    return {int(row["node-id"]): row for row in rows if row["status"] != "unregistered"}


def _flwr(coordinator: Coordinator, *arguments: str) -> dict[str, Any]:
    """The answer of one `flwr` command, over our named connection."""
    if not (coordinator.flwr_home / "config.toml").is_file():
        raise RunError(f"{coordinator.dir} has not been started yet; start it with: python -m server up")
    finished = subprocess.run(
        [str(BIN_DIR / "flwr"), *arguments, "--format", "json"],
        env=coordinator.environment(),
        cwd=coordinator.dir,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CALL_S,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(finished.stdout)
    except ValueError:
        answer = {"success": False, "error-message": finished.stderr or finished.stdout}
    if not answer.get("success"):
        reason = " ".join(str(answer.get("error-message", "no reason given")).split())
        if "Connection to the SuperLink is unavailable" in reason:
            raise RunError(f"the coordinator in {coordinator.dir} does not answer; start it with: python -m server up")
        raise RunError(f"flwr {arguments[0]}: {reason.rpartition('...')[2].strip()}")
    return answer


def _bundle() -> str:
    return f"""[project]
name = "agi-fed"
version = "{version("agi-fed")}"
description = "Names the installed apps; holds no code"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "agi-fed"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
run-dir = ""
strikes-path = ""
"""


def _write_connection(coordinator: Coordinator, *, host: str, port: int) -> None:
    text = f"""[superlink]
default = "{CONNECTION}"

[superlink.{CONNECTION}]
address = "{_own_address(host)}:{port}"
root-certificates = {json.dumps(str(coordinator.certificates.ca_path))}
"""
    atomic.write_text(coordinator.flwr_home / "config.toml", text)


def _own_address(host: str) -> str:
    return "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104  a comparison, not a bind


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RunError(
                f"cannot listen on {host}:{port} ({error.strerror}); is a coordinator running already? Stop it, or"
                " choose --port and --health-port"
            ) from None


def _wait_until_healthy(process: subprocess.Popen[bytes], coordinator: Coordinator, *, address: str) -> None:
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
