"""A deployed run over an in-process grid that is as unreliable as a network."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo

from agi_core.config.schema import DEPLOYMENT, RunConfig
from agi_core.run import run_folder
from client.app import app as client_app
from server.app import app as server_app
from simulations.local_grid import LocalGrid
from simulations.sites import find_sites, write_sites


class UnsteadyGrid(LocalGrid):
    """Sites that are away for their first so many looks at the list of nodes, and sites whose replies are lost; and a
    SuperLink that answers a call with an HTTP error, once, of which `refused` names {the call: the status}."""

    def __init__(
        self,
        app: ClientApp,
        node_configs: list[dict[str, str]],
        away: Mapping[str, int],
        silent: str,
        refused: Mapping[str, int],
    ) -> None:
        super().__init__(app, node_configs)
        self._refused = dict(refused)
        self._away, self._silent, self._looks = away, silent, 0
        self._lost = {str(node) for node, c in self._contexts.items() if c.node_config["site"] == silent}

    def _fail(self, call: str) -> None:
        if status := self._refused.pop(call, None):
            httpx.Response(status, request=httpx.Request("POST", f"https://localhost/{call}")).raise_for_status()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._fail("push")
        return super().push_messages(messages)

    def get_nodes(self) -> Iterable[NodeInfo]:
        self._fail("nodes")
        self._looks += 1
        return [node for node in super().get_nodes() if self._away.get(node.name, 0) < self._looks]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._fail("pull")
        return [m for m in super().pull_messages(message_ids) if str(m.metadata.src_node_id) not in self._lost]


def deploy(
    config: RunConfig,
    run_dir: Path,
    app: ClientApp = client_app,
    *,
    away: Mapping[str, int] | None = None,
    silent: str = "",
    refused: Mapping[str, int] | None = None,
    measures_poses: bool = False,
    alone: Collection[str] = (),
    shares: Collection[str] = (),
    **federation: Any,
) -> None:
    """Start, or resume, a run as the SuperLink would. `alone` and `shares` name the sites whose policy says so."""
    config, found = find_sites(config)
    if not measures_poses:
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, align_target=False))
    settings = dataclasses.replace(config.federation, **{"wait_s": 5.0, "deadline_s": 60.0, **federation})
    if not run_dir.exists():
        run_folder.create(run_dir, dataclasses.replace(config, engine=DEPLOYMENT, federation=settings))
    site_paths = write_sites(run_dir, config, found)
    for sites, rule in ((alone, "alone"), (shares, "share_last_layer")):
        for site, path in site_paths.items():
            path.write_text(re.sub(f"{rule}: .*", f"{rule}: {str(site in sites).lower()}", path.read_text()))
    node_configs = [{"site": site, "site-config": str(path)} for site, path in site_paths.items()]
    grid = UnsteadyGrid(app, node_configs, away or {}, silent, refused or {})
    server_app(grid, Context(1, 1, {}, RecordDict(), {"run-dir": str(run_dir)}))
