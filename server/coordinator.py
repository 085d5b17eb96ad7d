"""The coordinator's folder: everything that survives a restart, and the environment of the programs that work in it."""

from dataclasses import dataclass
from pathlib import Path

from agi_core.host.flower_environment import flower_environment
from server import strikes
from server.certificates import Certificates


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
        """The environment of every Flower process that works here."""
        return flower_environment(self.flwr_home)
