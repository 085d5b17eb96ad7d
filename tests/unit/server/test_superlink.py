import sqlite3
import subprocess
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from agi_core.errors import RunError
from server import superlink
from server.superlink import Coordinator


def test_every_flag_is_documented(tmp_path: Path) -> None:
    """Flower renames flags between minor releases; each that we use stands in its own help."""
    coordinator = Coordinator(tmp_path)
    command = superlink.command(coordinator, host="127.0.0.1", port=8000, health_port=8001)
    shown = subprocess.run(
        [command[0], "--help"], env=coordinator.environment(), capture_output=True, text=True, check=True
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


def test_the_environment_keeps_everything_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet.example.org")
    environment = Coordinator(tmp_path).environment()
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_HOME"] == str(tmp_path / "flwr")
    assert environment["NO_PROXY"] == "127.0.0.1,localhost,intranet.example.org"
    assert environment["PATH"].startswith(str(superlink.BIN_DIR))


def test_the_bundle_holds_no_code_and_runs_nothing_but_the_installed_apps() -> None:
    bundle = tomllib.loads(superlink._bundle())
    assert bundle["tool"]["flwr"]["app"]["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}
    assert "dependencies" not in bundle["project"]


def test_a_coordinator_that_was_never_started(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="python -m server up"):
        superlink.nodes(Coordinator(tmp_path))
