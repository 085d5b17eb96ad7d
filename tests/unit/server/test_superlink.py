import socket
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from agi_core.errors import RunError
from agi_core.host import lock
from agi_core.host.flower_environment import flower_environment
from server import superlink
from server.coordinator import CoordinatorDir


def test_every_flag_is_documented(tmp_path: Path) -> None:
    """Flower renames flags between minor releases; each that we use stands in its own help."""
    coordinator = CoordinatorDir(tmp_path)
    command = superlink.command(coordinator, host="127.0.0.1", port=8000, health_port=8001)
    shown = subprocess.run(
        [*command[:3], "--help"],
        env=flower_environment(coordinator.flwr_home),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    flags = [word for word in command if word.startswith("--")]
    assert {"--enable-supernode-auth", "--database", "--disable-runtime-dependency-installation"} <= set(flags)
    assert [flag for flag in flags if flag not in shown] == []
    assert "--insecure" not in flags


def test_the_database_is_made_with_large_pages_and_never_touched_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    superlink._make_database(path)
    with closing(sqlite3.connect(path)) as flower:
        flower.execute("PRAGMA journal_mode = WAL")
        flower.execute("CREATE TABLE kept (number INTEGER)")
        flower.execute("INSERT INTO kept VALUES (1)")
        flower.commit()
    superlink._make_database(path)
    with closing(sqlite3.connect(path)) as flower:
        assert flower.execute("SELECT number FROM kept").fetchall() == [(1,)]
        assert flower.execute("PRAGMA page_size").fetchone() == (superlink.PAGE_BYTES,)


def test_a_folder_has_one_coordinator_at_a_time(tmp_path: Path) -> None:
    coordinator = CoordinatorDir(tmp_path)
    with (
        lock.alone(coordinator.up_lock_path),
        pytest.raises(RunError, match=f"a coordinator runs in {tmp_path} already; stop it first") as told,
        superlink.running(coordinator, host="127.0.0.1", port=0, health_port=0),
    ):
        pass
    assert "--port" not in str(told.value)
    assert not coordinator.flwr_home.exists()


def test_a_port_of_another_program_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = rf"cannot listen on 127.0.0.1:{port} \(Address already in use\); .* choose --port and --health-port"
        with (
            pytest.raises(RunError, match=message),
            superlink.running(CoordinatorDir(tmp_path), host="127.0.0.1", port=0, health_port=port),
        ):
            pass


def test_what_its_programs_print_is_kept_short_until_one_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superlink, "LOG_BYTES", 3)
    monkeypatch.setattr(superlink, "LOOK_S", 0.01)
    coordinator, deadline = CoordinatorDir(tmp_path), time.monotonic() + 60
    coordinator.output_path.write_text("long")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as program, ThreadPoolExecutor() as pool:
        ended = pool.submit(superlink.wait_for_an_end, coordinator, superlink.programs())
        assert subprocess.run(["true"], check=False).returncode == 0  # a program that came later may end
        while coordinator.output_path.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        program.communicate()
        assert ended.result(timeout=60) == "cat"
    assert (tmp_path / "superlink-output.log.1").read_text() == "long"
