"""The coordinator's folder: everything that survives a restart, and the environment of the programs that work in it."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from server import strikes
from server.certificates import Certificates

BIN_DIR = Path(sys.executable).parent


@dataclass(frozen=True)
class CoordinatorDir:
    """The folder at `path`, and what lies in it."""

    path: Path

    @property
    def certificates(self) -> Certificates:
        return Certificates(self.path / "certs")

    @property
    def flwr_home(self) -> Path:
        return self.path / "flwr"

    @property
    def runs_dir(self) -> Path:
        return self.path / "runs"

    @property
    def sites_path(self) -> Path:
        return self.path / "sites.json"

    @property
    def strikes_path(self) -> Path:
        return self.path / strikes.FILE

    @property
    def database_path(self) -> Path:
        return self.path / "state.db"

    @property
    def log_path(self) -> Path:
        return self.path / "superlink.log"

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
