"""The weights before the first round: random ones, or those of a file, which is one of `python -m agi_core pretrain` or
a checkpoint. A simulation turns `public` into such a file (`simulations.pretrained`).

A run keeps a copy of its file, for baselines and for training alone, which begin later: the file may change or go."""

import dataclasses
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from agi_core.config.schema import RunConfig
from agi_core.errors import ConfigError
from agi_core.host import atomic
from agi_core.protocol import Weights, model_hash, pack
from agi_core.run.checkpoint import with_trained_layer

RANDOM, PUBLIC = "random", "public"
KEPT = "initial_weights.safetensors"  # in the run folder
_PUBLIC_NAME = re.compile(r"pretrained-[0-9a-f]{12}\.safetensors")


def weights_file(config: RunConfig) -> Path | None:
    """The file that the run starts from; None: random weights."""
    return None if config.initial_weights in (None, RANDOM, PUBLIC) else Path(config.initial_weights)


def public_name(key: str) -> str:
    """The name of a file of weights pre-trained on public data, under a hash of all that it depends on."""
    return f"pretrained-{key}.safetensors"


def is_public(path: Path) -> bool:
    """Whether a file is called so."""
    return _PUBLIC_NAME.fullmatch(path.name) is not None


def initial_weights(config: RunConfig) -> Weights:
    """The model's weights before the first round: of the file `config.initial_weights`, or random ones of the run's
    seed.

    Raises:
        ConfigError: the file cannot be read, is of another model, or holds a number that is not finite.
    """
    from agi_core.network import Network  # here, because it brings torch, and `weights_file` does not need it

    own = Network(config).weights
    path = weights_file(config)
    if path is None:
        return own
    try:
        stored = load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"initial_weights={path} cannot be read: {error.strerror}") from None
    except SafetensorError as error:
        raise ConfigError(f"initial_weights={path} is no safetensors file ({error})") from None
    if of_model := with_trained_layer(stored):  # a checkpoint of another run
        stored = of_model
    theirs, ours = (pack(weights).manifest for weights in (stored, own))
    if theirs != ours:
        raise ConfigError(
            f"initial_weights={path} is of model {model_hash(theirs)}, this run's is {model_hash(ours)}"
            f" ({_difference(stored, own)}); pre-train with this run's scenario and its settings of model"
        )
    if broken := [name for name, array in stored.items() if not np.isfinite(array).all()]:
        raise ConfigError(
            f"initial_weights={path}: {broken[0]} holds a number that is not finite; take the weights of another round,"
            " or pre-train again with a lower training.learning_rate"
        )
    return {name: stored[name] for name in own}


def keep(run_dir: Path, config: RunConfig) -> None:
    """Copy the file of a new run, if it has one, into its folder. Raises ConfigError, RunError."""
    if weights_file(config) is not None:
        atomic.write_bytes(run_dir / KEPT, save(initial_weights(config)))


def as_begun(config: RunConfig, run_dir: Path) -> RunConfig:
    """The configuration of a run that has begun: its weights are those of the copy. A run of an earlier release has
    none, and reads its file again."""
    kept = run_dir / KEPT
    return dataclasses.replace(config, initial_weights=str(kept)) if kept.is_file() else config


def _difference(theirs: Weights, ours: Weights) -> str:
    """The first parameter in which two models differ, in words."""
    for name in [*ours, *theirs]:
        if name not in theirs or name not in ours:
            return f"{name} is in {'this run' if name in ours else 'the file'} only"
        if theirs[name].shape != ours[name].shape:
            return f"{name} has shape {theirs[name].shape} there, {ours[name].shape} here"
    return "other dtypes"
