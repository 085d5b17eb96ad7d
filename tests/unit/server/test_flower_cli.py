import tomllib
from pathlib import Path

import pytest

from agi_core.errors import RunError
from server import flower_cli
from server.coordinator import CoordinatorDir
from server.flower_cli import FlowerRun, Node


def test_the_bundle_holds_no_code_and_runs_nothing_but_the_installed_apps() -> None:
    bundle = tomllib.loads(flower_cli._bundle())
    assert bundle["tool"]["flwr"]["app"]["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}
    assert "dependencies" not in bundle["project"]


def test_a_coordinator_that_was_never_started(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="python -m server up"):
        flower_cli.nodes(CoordinatorDir(tmp_path))


def test_the_connection_is_named_and_trusts_our_own_authority_alone(tmp_path: Path) -> None:
    coordinator = CoordinatorDir(tmp_path)
    flower_cli.write_connection(coordinator, address="127.0.0.1:8000")
    assert tomllib.loads((tmp_path / "flwr" / "config.toml").read_text())["superlink"] == {
        "default": "agi",
        "agi": {"address": "127.0.0.1:8000", "root-certificates": str(tmp_path / "certs" / "ca.crt")},
    }


@pytest.mark.parametrize(
    ("row", "node"),
    [
        ({"status": "registered", "online-at": "N/A", "offline-at": "N/A"}, Node("registered", None)),
        ({"status": "online", "online-at": "2026-01-02 10:00", "offline-at": "N/A"}, Node("online", "now")),
        (
            {"status": "offline", "online-at": "2026-01-02 10:00", "offline-at": "2026-01-02 11:00"},
            Node("offline", "2026-01-02 11:00"),
        ),
        ({"status": "offline"}, Node("offline", None)),
    ],
)
def test_when_a_node_was_seen_last(row: dict[str, str], node: Node) -> None:
    assert flower_cli._node(row) == node


@pytest.mark.parametrize(
    ("status", "is_starting", "is_finished"),
    [("pending", True, False), ("starting", True, False), ("running", False, False), ("finished:failed", False, True)],
)
def test_the_state_of_a_run(status: str, is_starting: bool, is_finished: bool) -> None:
    run = FlowerRun("1", status, "")
    assert (run.is_starting, run.is_finished) == (is_starting, is_finished)
