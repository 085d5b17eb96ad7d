from pathlib import Path

from server.coordinator import CoordinatorDir


def test_flowers_programs_keep_their_files_in_the_folder(tmp_path: Path) -> None:
    environment = CoordinatorDir(tmp_path).environment()
    assert environment["FLWR_HOME"] == str(tmp_path / "flwr")
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
