from pathlib import Path

import pytest

from server.coordinator import BIN_DIR, CoordinatorDir


def test_the_environment_keeps_everything_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet.example.org")
    environment = CoordinatorDir(tmp_path).environment()
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_HOME"] == str(tmp_path / "flwr")
    assert environment["NO_PROXY"] == "127.0.0.1,localhost,intranet.example.org"
    assert environment["PATH"].startswith(str(BIN_DIR))
