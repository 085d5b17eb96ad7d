"""The weights of a site's own, as a file at the site, and in the run where it has shared them. They belong to one model
of one run, and are not private."""

import hashlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.host.tensor_file import tensors_in
from agi_core.names import file_stem, shown
from agi_core.network import Network
from agi_core.protocol import Weights

_MEANING = (
    "what is one site's own of a model, made from its training subjects without noise: it carries no epsilon, and stays"
    " there unless the site has shared it"
)


def own_weights_path(state_dir: Path, *, run_id: str) -> Path:
    """Where a site keeps its own weights of a run. The coordinator's text never becomes a path."""
    return state_dir / "heads" / f"{hashlib.sha256(run_id.encode()).hexdigest()[:16]}.safetensors"


def style_path(run_dir: Path, site: str) -> Path:
    """Where a run keeps the own weights that a site has shared."""
    return run_dir / "styles" / f"{file_stem(site)}.safetensors"


def style_paths(run_dir: Path) -> dict[str, Path]:
    """{file stem of each such site: where they are}, in the order of names; no file that no site is called as."""
    paths = sorted(style_path(run_dir, "any").parent.glob("*.safetensors"))
    return {path.stem: path for path in paths if shown(path.stem) == path.stem}


def write_own_weights(path: Path, own: Weights, *, network: Network, made_of: str = "") -> None:
    """Write weights that stand in place of some of the network's present ones, which are common. Raises RunError.

    Args:
        made_of: a digest of the subjects that they were made of, for `read_made_of`.
    """
    own = {name: np.ascontiguousarray(array) for name, array in own.items()}
    metadata = {"model": _identity(network), "made_of": made_of, "meaning": _MEANING}
    atomic.write_bytes(path, save(own, metadata=metadata))


def read_made_of(path: Path) -> str:
    """What `write_own_weights` was told; "" where it was told nothing, or there are no weights that can be read."""
    try:
        return tensors_in(path.read_bytes())[0].get("made_of", "")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return ""


def load_own_weights(path: Path, *, network: Network) -> None:
    """Put the weights in a file of `write_own_weights` in place of the network's. Raises RunError; see
    `read_own_weights`."""
    network.load({**network.weights, **read_own_weights(path, network=network)})


def read_own_weights(path: Path, *, network: Network) -> Weights:
    """The weights in a file of `write_own_weights`.

    Raises:
        RunError: the file is missing or damaged, or belongs to another model than the network with its present weights.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} has no weights of a site's own ({error})") from None
    return own_weights_in(content, place=str(path), network=network)


def own_weights_in(content: bytes, *, place: str, network: Network) -> Weights:
    """As `read_own_weights`, of a file's content; `place` is where it is from, for messages."""
    try:
        metadata, own = tensors_in(content)
        model = metadata["model"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{place} has no weights of a site's own ({error})") from None
    if model != _identity(network):
        raise RunError(f"{place} belongs to another model: take the site's file of this very run")
    common = network.weights
    fits = all(name in common and array.dtype == common[name].dtype for name, array in own.items())
    if not (own and fits and all(np.isfinite(array).all() for array in own.values())):
        raise RunError(f"{place} holds no finite weights of this model; take the site's file again")
    return own


def _identity(network: Network) -> str:
    """A hash of all weights, in the precision in which they may have travelled."""
    digest = hashlib.sha256()
    for name, array in sorted(network.weights.items()):
        digest.update(name.encode())
        with np.errstate(over="ignore"):
            digest.update(np.ascontiguousarray(array, dtype=np.float16).tobytes())
    return digest.hexdigest()
