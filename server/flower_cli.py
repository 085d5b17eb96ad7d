"""The `flwr` command: runs, and the nodes that may join, over one named connection to our SuperLink."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.host.flower_environment import BIN_DIR, flower_environment
from server.coordinator import CoordinatorDir

CONNECTION = "agi"  # always named: without a name, flwr would start a simulation of its own
CALL_S = 180.0
BUNDLE_PATH = Path(__file__).with_name("bundle_template.toml")
NOTHING = "N/A"  # in Flower's words
ENDED, KNOWN_KEY = "[code: 18]", "[code: 23]"  # in Flower's words: the run has ended by itself, the key is registered
UNKNOWN_RUN = "[code: 16]"  # in Flower's words, too: there is no such run
LOST = "state.db has lost this run"


@dataclass(frozen=True)
class Node:
    """A node that is let in. `status`: registered (never seen), online or offline; `last_seen`: now, a date and time,
    or None."""

    status: str
    last_seen: str | None


@dataclass(frozen=True)
class FlowerRun:
    """A run as Flower sees it, under Flower's own `id`. `status`: pending, starting, running or finished:...; `reason`:
    why it finished."""

    id: str
    status: str
    reason: str

    @property
    def is_starting(self) -> bool:
        return self.status in ("pending", "starting")

    @property
    def is_finished(self) -> bool:
        return self.status.startswith("finished")


def write_connection(coordinator: CoordinatorDir, *, address: str) -> None:
    """Tell `flwr` where the SuperLink is, once it is started."""
    text = f"""[superlink]
default = "{CONNECTION}"

[superlink.{CONNECTION}]
address = "{address}"
root-certificates = {json.dumps(str(coordinator.certificates.ca_path))}
"""
    atomic.write_text(coordinator.flwr_home / "config.toml", text)


def bundle() -> str:
    """The `pyproject.toml` that Flower sends around. It holds no code: it names the apps that are installed, here and
    at each hospital."""
    return BUNDLE_PATH.read_text(encoding="utf-8").format(version=version("agi-fed"))


def run(coordinator: CoordinatorDir, run_dir: Path) -> str:
    """Start the ServerApp on a run folder, with the `bundle`; returns Flower's id of the run."""
    with tempfile.TemporaryDirectory() as folder:  # flwr may rewrite the pyproject.toml that it is given
        app_dir = Path(folder) / "agi-fed"
        app_dir.mkdir()
        (app_dir / "pyproject.toml").write_text(bundle(), encoding="utf-8")
        config_path = Path(folder) / "run.toml"
        paths = {"run-dir": run_dir, "strikes-path": coordinator.strikes_path}
        paths["key-path"] = coordinator.certificates.request_key_path
        lines = (f"{key} = {json.dumps(str(path.resolve()), ensure_ascii=False)}\n" for key, path in paths.items())
        config_path.write_text("".join(lines), encoding="utf-8")
        answer = _flwr(coordinator, "run", str(app_dir), CONNECTION, "--run-config", str(config_path))
    return str(answer["run-id"])


def stop(coordinator: CoordinatorDir, flower_run_id: str) -> None:
    """Stop a run by Flower's id; one that has ended by itself meanwhile is no error."""
    _flwr(coordinator, "stop", flower_run_id, CONNECTION, no_fault=ENDED)


def run_status(coordinator: CoordinatorDir, flower_run_id: str) -> FlowerRun:
    """The run with this id of Flower's. One that its database has lost counts as finished: nothing works on it."""
    answer = _flwr(coordinator, "list", CONNECTION, "--run-id", flower_run_id, no_fault=UNKNOWN_RUN)
    if not answer:
        return FlowerRun(flower_run_id, "finished", LOST)
    (row,) = answer["runs"]
    details = str(row["status-details"])
    return FlowerRun(flower_run_id, str(row["status"]), "" if details == NOTHING else details)


def register(coordinator: CoordinatorDir, *, name: str, public_key_path: Path) -> int | None:
    """Allow the node with this key in, under this name; returns its node id, or None when it is let in already."""
    command = ("supernode", "register", str(public_key_path), CONNECTION, "--name", name)
    answer = _flwr(coordinator, *command, no_fault=KNOWN_KEY)
    return int(answer["node-id"]) if answer else None


def unregister(coordinator: CoordinatorDir, node_id: int) -> None:
    """Shut a node out; a connected one is disconnected."""
    _flwr(coordinator, "supernode", "unregister", str(node_id), CONNECTION)


def nodes(coordinator: CoordinatorDir) -> dict[int, Node]:
    """{node id: node} of all that are let in."""
    rows = _flwr(coordinator, "supernode", "list", CONNECTION)["nodes"]
    return {int(row["node-id"]): _node(row) for row in rows if row["status"] != "unregistered"}


def _node(row: dict[str, str]) -> Node:
    seen = [row[key] for key in ("online-at", "offline-at") if row.get(key, NOTHING) != NOTHING]
    return Node(row["status"], "now" if row["status"] == "online" else max(seen, default=None))


def _flwr(coordinator: CoordinatorDir, *arguments: str, no_fault: str | None = None) -> dict[str, Any]:
    """The answer of one `flwr` command, over our named connection. An error whose text holds `no_fault` counts as an
    empty answer."""
    if not (coordinator.flwr_home / "config.toml").is_file():
        raise RunError(f"{coordinator.path} has not been started yet; start it with: python -m server up")
    try:
        finished = subprocess.run(
            [str(BIN_DIR / "flwr"), *arguments, "--format", "json"],
            env=flower_environment(coordinator.flwr_home),
            cwd=coordinator.path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CALL_S,
            check=False,
            encoding="utf-8",
        )
    except subprocess.TimeoutExpired:
        raise RunError(
            f"the coordinator in {coordinator.path} has not answered for {CALL_S:g} s; see superlink.log, and stop and"
            " start it with: python -m server up"
        ) from None
    try:
        answer: dict[str, Any] = json.loads(finished.stdout)
    except ValueError:
        answer = {"success": False, "error-message": finished.stderr or finished.stdout}
    if not answer.get("success"):
        reason = " ".join(str(answer.get("error-message", "no reason given")).split())
        if no_fault is not None and no_fault in reason:
            return {}
        if "Connection to the SuperLink is unavailable" in reason:
            raise RunError(f"the coordinator in {coordinator.path} does not answer; start it with: python -m server up")
        raise RunError(f"flwr {arguments[0]}: {reason.rpartition('...')[2].strip()}")
    return answer
