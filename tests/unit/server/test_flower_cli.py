import tomllib
from pathlib import Path

import pytest

from agi_core.errors import RunError
from server import flower_cli
from server.coordinator import CoordinatorDir
from server.flower_cli import FlowerRun, Node
from tests.support.flwr_program import Flwr, stand_in


def test_the_bundle_holds_no_code_and_runs_nothing_but_the_installed_apps() -> None:
    bundle = tomllib.loads(flower_cli.bundle())
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


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorDir:
    return CoordinatorDir(tmp_path)


@pytest.fixture
def flwr(coordinator: CoordinatorDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flwr:
    return stand_in(coordinator, tmp_path / "bin", monkeypatch)


def test_stopping_a_run_that_has_ended_is_no_fault(coordinator: CoordinatorDir, flwr: Flwr) -> None:
    flwr.fails("stop", "Stopping run 7... [code: 18] the run has finished")
    flower_cli.stop(coordinator, "7")
    flwr.fails("stop", "Stopping run 7... [code: 5] no such run")
    with pytest.raises(RunError, match=r"flwr stop: \[code: 5\] no such run"):
        flower_cli.stop(coordinator, "7")


def test_a_key_that_is_let_in_already_has_no_new_node(coordinator: CoordinatorDir, flwr: Flwr, tmp_path: Path) -> None:
    flwr.answers("supernode", {"node-id": "42"})
    assert flower_cli.register(coordinator, name="A", public_key_path=tmp_path / "k.pub") == 42
    flwr.fails("supernode", "[code: 23] the public key is in use")
    assert flower_cli.register(coordinator, name="A", public_key_path=tmp_path / "k.pub") is None
    with pytest.raises(RunError, match="flwr supernode: "):  # this code is a fault everywhere else
        flower_cli.nodes(coordinator)


def test_a_run_without_a_reason_has_none(coordinator: CoordinatorDir, flwr: Flwr) -> None:
    flwr.knows("finished:completed", "N/A")
    assert flower_cli.run_status(coordinator, "7").reason == ""


def test_a_run_that_the_database_has_lost_is_finished(coordinator: CoordinatorDir, flwr: Flwr) -> None:
    flwr.fails("list", "[code: 16] Run ID not found.")
    assert flower_cli.run_status(coordinator, "7") == FlowerRun("7", "finished", flower_cli.LOST)


def test_a_superlink_that_is_gone(coordinator: CoordinatorDir, flwr: Flwr) -> None:
    flwr.fails("list", "Connection to the SuperLink is unavailable.")
    with pytest.raises(RunError, match="does not answer; start it with: python -m server up"):
        flower_cli.run_status(coordinator, "7")


def test_a_superlink_that_hangs(
    coordinator: CoordinatorDir, flwr: Flwr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / "flwr").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(flower_cli, "CALL_S", 0.2)
    with pytest.raises(RunError, match=r"has not answered for 0.2 s; see superlink.log"):
        flower_cli.run_status(coordinator, "7")


def test_a_program_that_breaks_down_is_quoted(coordinator: CoordinatorDir, flwr: Flwr) -> None:
    flwr.prints("list", "Traceback ... ValueError: no")
    with pytest.raises(RunError, match="flwr list: ValueError: no"):
        flower_cli.run_status(coordinator, "7")
