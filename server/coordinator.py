"""The coordinator's folder: everything that survives a restart."""

from pathlib import Path

from server import strikes
from server.certificates import Certificates


class CoordinatorDir:
    """The folder at `path`, and where things lie in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.certificates = Certificates(path / "certs")
        self.flwr_home = path / "flwr"
        self.runs_dir = path / "runs"
        self.runs_lock_path = path / "runs.lock"
        self.sites_path = path / "sites.json"
        self.strikes_path = path / strikes.FILE
        self.database_path = path / "state.db"
        self.log_path = path / "superlink.log"
        self.output_path = path / "superlink-output.log"
        """What the SuperLink and its runs print."""
        self.up_lock_path = path / "up.lock"
        """Held while `up` runs here."""
        self.health_port_path = path / "health-port.txt"
        """The port of the gRPC health service that was started last."""

    @property
    def exists(self) -> bool:
        """Whether anything of a coordinator stands in the folder."""
        return any(path.exists() for path in (self.certificates.dir, self.sites_path, self.flwr_home, self.runs_dir))
