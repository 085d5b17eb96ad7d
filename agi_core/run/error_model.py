"""The error models of a run, as files in its folder. Each belongs to one set of weights, last layer and all."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from agi_core import conformal
from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.host.tensor_file import tensors_in
from agi_core.network import Network
from agi_core.protocol import hash_of, pack
from agi_core.uncertainty import ErrorModel

NAME = "error_model.safetensors"


def own_path(run_dir: Path, *, network: Network) -> Path:
    """Where the error model of the network with a site's own weights lies, beside that of the common ones."""
    return run_dir / f"error_model-{hash_of(pack(network.weights))[:16]}.safetensors"


def write_error_model(path: Path, model: ErrorModel, *, network: Network) -> None:
    """Write the error model of the network with its present weights. Raises RunError."""
    atomic.write_bytes(path, content_of(model, network=network))


def content_of(model: ErrorModel, *, network: Network) -> bytes:
    """What `write_error_model` writes."""
    metadata = {
        "model": hash_of(pack(network.weights)),
        "subjects": str(model.subjects),
        "sites": str(model.sites),
        "calibrated_on": json.dumps(model.calibrated_on),
    }
    return save({"layer": model.layer, "counts": model.counts}, metadata=metadata)


def read_error_model(path: Path, *, network: Network) -> ErrorModel:
    """The error model in a file of `write_error_model`.

    Raises:
        RunError: the file is missing or damaged, or belongs to other weights than the network's present ones.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing, so nobody knows how large the errors of this model are; make it with"
            f" python -m agi_core calibrate --run {path.parent} --data DIR"
        ) from None
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    return error_model_in(content, place=str(path), network=network)


def error_model_in(content: bytes, *, place: str, network: Network) -> ErrorModel:
    """The error model of `content_of`.

    Args:
        place: where it is from, for messages.

    Raises:
        RunError: it is damaged, or belongs to other weights than the network's present ones.
    """
    try:
        metadata, arrays = tensors_in(content)
        layer, counts = arrays["layer"], arrays["counts"]
        model, subjects, sites = metadata["model"], int(metadata["subjects"]), int(metadata["sites"])
        calibrated_on = tuple(json.loads(metadata["calibrated_on"]))
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(
            f"{place} is no error model ({error}); make it again with python -m agi_core calibrate"
        ) from None
    if model != hash_of(pack(network.weights)):
        raise RunError(
            f"{place} belongs to other weights; calibrate with the same --weights and --head as those that are used"
        )
    fits = layer.shape == network.readout.shape and counts.shape == (len(conformal.EDGES) + 1,)
    counted = counts.dtype == np.int64 and subjects > 0 < sites and counts.min(initial=0) >= 0 < counts.sum()
    if not (fits and counted and layer.dtype == np.float64 and np.isfinite(layer).all()):
        raise RunError(f"{place} is no error model of this network; make it again with python -m agi_core calibrate")
    return ErrorModel(layer, counts, subjects, sites, calibrated_on)
