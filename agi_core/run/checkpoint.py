"""Checkpoints of a run: weights in safetensors and the run's state in JSON, together or not at all.

`checkpoints/state-00007.safetensors` holds the arrays after round 7, `state-00007.json` everything else and the arrays'
checksum. The JSON is written last and by rename, which is the commit: a crash before it leaves in force what was. So a
second save of one round writes its arrays beside those in force, as `state-00007-again.safetensors`, and gives them
their name when they are in force. The last two rounds are kept, and the best so far.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.run.json_objects import Json
from agi_core.run.scores import Best

Arrays = dict[str, NDArray[Any]]
WEIGHTS = "weights/"  # prefix of the model's arrays, among others that a state may hold
TRAINED_LAYER = "trained_layer/"  # of the last layer that training ended with, where a solved one has taken its place


def save_checkpoint(
    run_dir: Path, *, round: int, arrays: Mapping[str, NDArray[Any]], state: Json, keep: int | None = None
) -> None:
    """Commit the state after `round`; drop older checkpoints but the one before and that of round `keep`."""
    folder = run_dir / "checkpoints"
    atomic.remove_stale(folder)
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    path, again_path = _arrays_paths(folder, round)
    is_second = (in_force := _load(folder, round)) is not None and in_force[0] == path
    atomic.write_bytes(again_path if is_second else path, data)
    commit_state(run_dir, round=round, state={**state, "arrays_sha256": hashlib.sha256(data).hexdigest()})
    if is_second:
        again_path.replace(path)
    else:
        again_path.unlink(missing_ok=True)
    for old in _rounds(folder):
        if old < round - 1 and old != keep:
            _state_path(folder, old).unlink()
            for path in _arrays_paths(folder, old):
                path.unlink(missing_ok=True)


def commit_state(run_dir: Path, *, round: int, state: Json) -> None:
    """Replace the JSON half of the checkpoint of `round`; its arrays stay."""
    atomic.write_json(_state_path(run_dir / "checkpoints", round), state)


def load_last(run_dir: Path) -> tuple[int, Arrays, Json] | None:
    """(round, arrays, state) of the newest checkpoint that is whole, or None when there is none."""
    last = _load_last(run_dir)
    return None if last is None else (last[0], *last[2:])


def load_round(run_dir: Path, round: int) -> tuple[Arrays, Json]:
    """(arrays, state) after `round`.

    Raises:
        RunError: not kept, or damaged.
    """
    loaded = _load(run_dir / "checkpoints", round)
    if loaded is None:
        raise RunError(f"the checkpoint of round {round} in {run_dir / 'checkpoints'} is missing or damaged")
    return loaded[1:]


def load_weights(run_dir: Path, *, best: bool = False) -> Arrays:
    """The weights of a run's last model, or of its best by validation (the last where nothing was validated).

    Raises:
        RunError: the run has no checkpoint, or it is damaged.
    """
    round, _, arrays, state = _known_last(run_dir)
    if best and state["best"] and state["best"]["round"] != round:
        arrays, _ = load_round(run_dir, state["best"]["round"])
    return model_weights(arrays)


def load_with_trained_layer(run_dir: Path) -> Arrays:
    """The last model's weights, `with_trained_layer`. Raises RunError as `load_weights`."""
    return with_trained_layer(_known_last(run_dir)[2])


def last_round(run_dir: Path) -> int:
    """The round that the last model is of. Raises RunError as `last_path`."""
    return _known_last(run_dir)[0]


def untested_best(run_dir: Path) -> Best | None:
    """The best model by validation; None where there is none, or where it is the last one, which a run tests: a run may
    have gone back to it."""
    _, _, arrays, state = _known_last(run_dir)
    if not state["best"]:
        return None
    best, last = load_weights(run_dir, best=True), model_weights(arrays)
    same = all(np.array_equal(best[name], array) for name, array in last.items())
    return None if same else Best.from_json(state["best"])


def has_model(run_dir: Path) -> bool:
    """Whether a round of the run has finished."""
    return any(_rounds(run_dir / "checkpoints"))


def trained_weights(run_dir: Path, *, best: bool = False) -> Arrays:
    """As `load_weights`, for whoever uses the model.

    Raises:
        RunError: also where no round has finished: the weights are those that the run began with; or where the best
            model is asked for and nothing was validated.
    """
    weights, last = load_weights(run_dir, best=best), load_last(run_dir)
    if last is not None and last[0] == 0:
        raise RunError(
            f"no round of the run in {run_dir} has finished, so it has no model yet; go on with the run first"
        )
    if best and last is not None and not last[2]["best"]:
        raise RunError(
            f"the run in {run_dir} has no best round, because no site told of its validation, as in a private run;"
            " leave --weights best out"
        )
    return weights


def model_weights(arrays: Arrays) -> Arrays:
    """The model's arrays of a checkpoint, by the names that the model gives them."""
    return {name.removeprefix(WEIGHTS): array for name, array in arrays.items() if name.startswith(WEIGHTS)}


def with_trained_layer(arrays: Arrays) -> Arrays:
    """The same with the last layer that training ended with: of this one the prior is a regression by itself."""
    return model_weights(arrays) | {
        name.removeprefix(TRAINED_LAYER): array for name, array in arrays.items() if name.startswith(TRAINED_LAYER)
    }


def last_path(run_dir: Path) -> Path:
    """The file of a run's last model.

    Raises:
        RunError: the run has no checkpoint, or it is damaged.
    """
    return _known_last(run_dir)[1]


def _known_last(run_dir: Path) -> tuple[int, Path, Arrays, Json]:
    if (last := _load_last(run_dir)) is None:
        raise RunError(f"{run_dir} holds no checkpoint; is it the folder of a run that finished a round?")
    return last


def _load_last(run_dir: Path) -> tuple[int, Path, Arrays, Json] | None:
    folder = run_dir / "checkpoints"
    for round in reversed(_rounds(folder)):
        if (loaded := _load(folder, round)) is not None:
            return round, *loaded
    return None


def _load(folder: Path, round: int) -> tuple[Path, Arrays, Json] | None:
    """(file of the arrays, arrays, state) after `round`; None where a half is missing or damaged."""
    try:
        state = json.loads(_state_path(folder, round).read_bytes())
        for path in _arrays_paths(folder, round):
            if path.is_file() and hashlib.sha256(data := path.read_bytes()).hexdigest() == state["arrays_sha256"]:
                return path, load(data), state
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    return None


def _rounds(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("state-")) for path in folder.glob("state-[0-9]*.json"))


def _state_path(folder: Path, round: int) -> Path:
    return folder / f"state-{round:05d}.json"


def _arrays_paths(folder: Path, round: int) -> tuple[Path, Path]:
    return folder / f"state-{round:05d}.safetensors", folder / f"state-{round:05d}-again.safetensors"
