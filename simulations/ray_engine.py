"""The Ray engine: Flower's own simulation backend, for many clients, several GPUs or a Ray cluster.

Flower's backend knows its nodes by number only and starts apps without a run configuration, so two thin wrappers put
both configurations into the context; the apps inside are the very ones of the other engines.
"""

import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from agi_core.errors import ConfigError


class _SiteApp(ClientApp):
    """The client app of every node: finds the node's configuration by its partition id."""

    def __init__(self, app: ClientApp, node_configs: Sequence[Mapping[str, str]]) -> None:
        super().__init__()
        self._app, self._node_configs = app, node_configs

    def __call__(self, message: Message, context: Context) -> Message:
        node_config: UserConfig = dict(self._node_configs[int(context.node_config["partition-id"])])
        return self._app(message, Context(context.run_id, context.node_id, node_config, context.state, {}))


def check_ray() -> None:
    """Raise ConfigError unless Ray is installed."""
    if find_spec("ray") is None:
        raise ConfigError("--engine ray needs Ray; install it with: pip install '.[ray]', or leave --engine out")


def run_on_ray(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    node_configs: Sequence[Mapping[str, str]],
    run_config: Mapping[str, str],
    threads: int,
    gpus: float,
) -> None:
    """As `simulations.local_grid.run_in_process`, with clients side by side in Ray's workers.

    Each client takes `threads` CPUs and `gpus` GPUs, or such a part of one.
    """
    failures: list[BaseException] = []
    configured = ServerApp()

    @configured.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            server_app(grid, Context(context.run_id, context.node_id, {}, RecordDict(), dict(run_config)))
        except Exception as error:  # Flower would replace it with its own
            failures.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray and of Flower's deprecated entry, the only one that takes app objects
        run_simulation(
            configured,
            _SiteApp(client_app, node_configs),
            num_supernodes=len(node_configs),
            backend_config={
                "client_resources": {"num_cpus": threads, "num_gpus": gpus},
                "init_args": {"include_dashboard": False},
            },
        )
    if failures:
        raise failures[0]
