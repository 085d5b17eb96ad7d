"""The last layers that sites let others use (`synthesize --style`): what is judged of them, and the run's copy."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from agi_core.config.schema import Task
from agi_core.keys import KeyTable
from agi_core.network import Network
from agi_core.protocol import LAST_LAYER_ARRAY, Reply, Request
from agi_core.ridge import Vector
from agi_core.run.own_weights import style_path, write_own_weights
from server.update_gate import Verdict, array_in

MOST_NORMS = 100.0
"""A site's own layer is shrunk to the common one; so many times its norm (of a small one: 1) is none."""


def judge_last_layers(replies: Mapping[str, Reply], request: Request, *, common: Vector) -> Verdict[Vector]:
    """The verdict on replies to the question for last layers. A site that keeps its own is left out.

    Args:
        common: the last layer of the weights that were sent.
    """
    accepted: dict[str, Vector] = {}
    refused: dict[str, str] = {}
    limit = MOST_NORMS * max(1.0, float(np.linalg.norm(common)))
    for site, reply in sorted(replies.items()):
        if reply.weights is None:
            continue
        layer = array_in(reply, LAST_LAYER_ARRAY)
        if layer is None or layer.shape != common.shape or layer.dtype != np.float64:
            refused[site] = f"the reply holds no last layer of {common.size} numbers"
        elif not (norm := math.hypot(*layer.tolist())) <= limit:
            refused[site] = f"the reply's last layer has norm {norm:.3g}, at most {limit:.3g} can be"
        elif reply.num_examples < 1:
            refused[site] = "the reply counts no subject"
        else:
            accepted[site] = np.array(layer)  # of a reply on the disk
    return Verdict(accepted, refused=refused)


def write_styles(run_dir: Path, layers: Mapping[str, Vector], *, network: Network, task: Task) -> None:
    """Keep each site's layer as weights of its own of this network, which is left as it was. Raises RunError."""
    common = {name: array.copy() for name, array in network.weights.items()}
    personal = KeyTable.of(task, {name: array.ndim for name, array in common.items()}).personal
    for site, layer in layers.items():
        network.set_readout(layer)
        own = {name: network.weights[name].copy() for name in personal}
        network.load(common)
        write_own_weights(style_path(run_dir, site), own, network=network)
