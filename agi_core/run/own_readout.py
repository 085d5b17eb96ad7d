"""A site's own last layer, as a file at the site. It belongs to one model of one run, and is not private."""

import hashlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.host.tensor_file import open_tensors
from agi_core.keys import is_personal
from agi_core.network import Network
from agi_core.ridge import Vector

_MEANING = (
    "the last layer of one site, solved from its training subjects without noise: it carries no epsilon and stays there"
)


def own_readout_path(state_dir: Path, *, run_id: str) -> Path:
    """Where a site keeps its last layer of a run. The coordinator's text never becomes a path."""
    return state_dir / "heads" / f"{hashlib.sha256(run_id.encode()).hexdigest()[:16]}.safetensors"


def write_own_readout(path: Path, readout: Vector, *, network: Network) -> None:
    """Write the last layer that belongs to the network's present weights. Raises RunError."""
    atomic.write_bytes(path, save({"readout": readout}, metadata={"model": _body(network), "meaning": _MEANING}))


def read_own_readout(path: Path, *, network: Network) -> Vector:
    """The last layer in a file of `write_own_readout`.

    Raises:
        RunError: the file is missing or damaged, or belongs to another model than the network with its present weights.
    """
    try:
        with open_tensors(path) as file:
            model, readout = file.metadata()["model"], file.get_tensor("readout")
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise RunError(f"{path} is no last layer of a site ({error})") from None
    if model != _body(network):
        raise RunError(f"{path} belongs to another model: take the site's file of this very run")
    return np.asarray(readout, dtype=np.float64)


def _body(network: Network) -> str:
    """A hash of all weights but the last layer's, whose features the readout weights."""
    digest = hashlib.sha256()
    for name, array in sorted(network.weights.items()):
        if not is_personal(name):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
