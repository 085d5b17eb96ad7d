"""The federation as a whole in one process, and an app that fails on purpose."""

from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from agi_core.config.schema import RunConfig
from agi_core.run import run_folder
from agi_core.run.checkpoint import load_weights
from client.app import app as client_app
from server.app import app as server_app
from simulations.local_grid import run_in_process
from simulations.sites import find_sites, write_sites


def federate(config: RunConfig, run_dir: Path, app: ClientApp = client_app) -> dict[str, Path]:
    """Run, or resume, a federation in `run_dir`; {site: site file}."""
    config, federation = find_sites(config)
    if not run_dir.exists():
        run_folder.create(run_dir, config)
    site_paths = write_sites(run_dir, config, federation)
    node_configs = [{"site": site, "site-config": str(path)} for site, path in site_paths.items()]
    run_in_process(server_app, app, node_configs=node_configs, run_config={"run-dir": str(run_dir)})
    return site_paths


def assert_same_weights(a: Path, b: Path, *, atol: float = 0) -> None:
    ours, theirs = load_weights(a), load_weights(b)
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=atol)


class Saboteur(ClientApp):
    """The site's real app, but the given call raises or answers with an error."""

    def __init__(self, *, fail_at: int, error: BaseException) -> None:
        super().__init__()
        self.calls, self.fail_at, self.error = 0, fail_at, error

    def __call__(self, message: Message, context: Context) -> Message:
        self.calls += 1
        if self.calls == self.fail_at:
            raise self.error
        return client_app(message, context)
