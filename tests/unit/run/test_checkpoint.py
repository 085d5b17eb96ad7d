import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file as load_numpy

from agi_core.errors import RunError
from agi_core.run.checkpoint import (
    TRAINED_LAYER,
    WEIGHTS,
    Arrays,
    commit_state,
    last_path,
    load_last,
    load_round,
    load_weights,
    load_with_trained_layer,
    save_checkpoint,
    trained_weights,
)


def save(run_dir: Path, round: int, *, keep: int | None = None) -> None:
    arrays: Arrays = {f"{WEIGHTS}w": np.full((3, 2), round, np.float32), "velocity/w": np.full(3, -round, np.float64)}
    save_checkpoint(run_dir, round=round, arrays=arrays, state={"best": None, "round": round}, keep=keep)


def last_round(run_dir: Path) -> int | None:
    """The round in force, after a check that arrays and state are of that round."""
    last = load_last(run_dir)
    if last is None:
        return None
    round, arrays, state = last
    assert state["round"] == round
    np.testing.assert_array_equal(arrays[f"{WEIGHTS}w"], np.full((3, 2), round, np.float32))
    np.testing.assert_array_equal(arrays["velocity/w"], np.full(3, -round, np.float64))
    return round


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: Arrays = {f"{WEIGHTS}a.b": rng.normal(size=(4, 3)).astype(np.float32).T, "velocity/a": rng.normal(size=5)}
    save_checkpoint(tmp_path, round=7, arrays=arrays, state={"best": None, "history": [{"loss": 0.1}]})
    last = load_last(tmp_path)
    assert last is not None
    round, loaded, state = last
    assert (round, state["history"]) == (7, [{"loss": 0.1}])
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
    assert set(load_weights(tmp_path)) == {"a.b"}


def test_the_layer_that_training_ended_with_is_kept_beside_a_solved_one(tmp_path: Path) -> None:
    arrays: Arrays = {f"{WEIGHTS}{name}": np.full(2, 1.0, np.float32) for name in ("body", "head")}
    save_checkpoint(tmp_path, round=7, arrays=arrays, state={"best": None})
    assert load_with_trained_layer(tmp_path).keys() == {"body", "head"}
    arrays[f"{TRAINED_LAYER}head"] = np.full(2, 3.0, np.float32)
    save_checkpoint(tmp_path, round=7, arrays=arrays, state={"best": None})
    kept, solved = load_with_trained_layer(tmp_path), load_weights(tmp_path)
    assert {name: array[0] for name, array in kept.items()} == {"body": 1.0, "head": 3.0}
    assert {name: array[0] for name, array in solved.items()} == {"body": 1.0, "head": 1.0}


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert load_last(tmp_path) is None
    with pytest.raises(RunError, match="holds no checkpoint"):
        load_weights(tmp_path)


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    for round in range(6):
        save(tmp_path, round, keep=1 if round >= 1 else None)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"state-0000{round}.{kind}" for round in (1, 4, 5) for kind in ("json", "safetensors")]


def test_weights_of_the_best_round(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2, keep=1)
    _, state = load_round(tmp_path, 2)
    commit_state(tmp_path, round=2, state={**state, "best": {"round": 1, "psnr_db": 20.0}})
    assert load_weights(tmp_path)["w"][0, 0] == 2
    assert load_weights(tmp_path, best=True)["w"][0, 0] == 1
    (tmp_path / "checkpoints" / "state-00001.safetensors").unlink()
    with pytest.raises(RunError, match=r"round 1 .* missing or damaged"):
        load_weights(tmp_path, best=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["json", "safetensors"]), part=st.floats(0, 1, exclude_max=True), flip=st.booleans())
def test_any_damage_to_the_last_puts_the_one_before_in_force(
    tmp_path: Path, kind: str, part: float, flip: bool
) -> None:
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "checkpoints" / f"state-00002.{kind}"
    content = path.read_bytes()
    at = int(part * len(content))
    if flip and kind == "safetensors":
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    else:
        path.write_bytes(content[: min(at, len(content) - 2)])  # JSON without its last newline would be whole
    assert last_round(tmp_path) == 1


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_lost_file_puts_the_one_before_in_force(tmp_path: Path, kind: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "checkpoints" / f"state-00002.{kind}").unlink()
    assert last_round(tmp_path) == 1


class Killed(BaseException):
    """Stands for SIGKILL at one system call: no handler of ours catches it."""


@contextmanager
def killing_at(n: int) -> Iterator[list[str]]:
    """The n-th call that writes, syncs, renames or removes a file kills instead, and so does every later one: a dead
    process does not clean up. Gives the calls that were made."""
    calls: list[str] = []

    def counted(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            calls.append(name)
            if len(calls) >= n:
                raise Killed
            return original(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counted("fsync", os.fsync))
        for name in ("write_bytes", "replace", "unlink"):
            patch.setattr(Path, name, counted(name, getattr(Path, name)))
        yield calls


STEPS = [
    *("write_bytes", "fsync", "replace", "fsync", "unlink"),  # the arrays; unlink finds the temporary file gone
    *("write_bytes", "fsync", "replace", "fsync", "unlink"),  # the state: its replace is the commit
    "unlink",  # the other arrays of this round, where it was saved before
    *("unlink", "unlink", "unlink"),  # the checkpoint of round 1: its state, and both names of its arrays
]
COMMIT = 8


def test_the_steps_of_a_write(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    with killing_at(100) as calls:
        save(tmp_path, 3)
    assert calls == STEPS


@pytest.mark.parametrize("n", range(1, len(STEPS) + 1))
def test_a_kill_at_any_step_leaves_a_whole_state(tmp_path: Path, n: int) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    with killing_at(n), pytest.raises(Killed):
        save(tmp_path, 3)
    assert last_round(tmp_path) == (2 if n <= COMMIT else 3)
    for round in (3, 4):  # the resumed run
        save(tmp_path, round)
        assert last_round(tmp_path) == round


def save_again(run_dir: Path, value: float, *, round: int = 2) -> None:
    arrays: Arrays = {f"{WEIGHTS}w": np.full(3, value, np.float32)}
    save_checkpoint(run_dir, round=round, arrays=arrays, state={"best": None, "round": round, "value": value})


def test_the_steps_of_a_second_save(tmp_path: Path) -> None:
    save_again(tmp_path, 1)
    with killing_at(100) as calls:
        save_again(tmp_path, 2)
    assert len(calls) == AGAIN


AGAIN = 11  # the two files, then the arrays that were in force; no checkpoint of a round before


@pytest.mark.parametrize("saves_before", [1, 2])
@pytest.mark.parametrize("n", range(1, AGAIN + 1))
def test_a_kill_in_a_second_save_of_a_round_leaves_one_of_the_two(tmp_path: Path, n: int, saves_before: int) -> None:
    """The final test may roll a run back to its best round, and saves that under the last round's number."""
    for value in range(1, saves_before + 1):
        save_again(tmp_path, value)
    with killing_at(n), pytest.raises(Killed):
        save_again(tmp_path, 9)
    in_force = saves_before if n <= COMMIT else 9
    for value in (in_force, 5, 6):  # the resumed run
        if value != in_force:
            save_again(tmp_path, value)
        last = load_last(tmp_path)
        assert last is not None
        round, arrays, state = last
        assert (round, state["value"], arrays[f"{WEIGHTS}w"].tolist()) == (2, value, [value] * 3)
        assert load_numpy(last_path(tmp_path))[f"{WEIGHTS}w"].tolist() == [value] * 3
    save_again(tmp_path, 7, round=3)
    save_again(tmp_path, 8, round=4)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith("state-"))
    assert len(names) == 4, names


def test_a_run_without_a_finished_round_has_no_model_to_use(tmp_path: Path) -> None:
    arrays = {"weights/w": np.ones(3, np.float32)}
    save_checkpoint(tmp_path, round=0, arrays=arrays, state={"best": None})
    assert load_weights(tmp_path)["w"].tolist() == [1, 1, 1]  # the run itself may go back to it
    with pytest.raises(RunError, match=r"no round of the run in .* has finished"):
        trained_weights(tmp_path)
    save_checkpoint(tmp_path, round=1, arrays=arrays, state={"best": None})
    assert trained_weights(tmp_path)["w"].tolist() == [1, 1, 1]


def test_where_nothing_was_validated_no_model_is_called_the_best(tmp_path: Path) -> None:
    arrays = {"weights/w": np.ones(3, np.float32)}
    save_checkpoint(tmp_path, round=1, arrays=arrays, state={"best": None})
    with pytest.raises(RunError, match=r"has no best round, .*; leave --weights best out"):
        trained_weights(tmp_path, best=True)
    save_checkpoint(tmp_path, round=1, arrays=arrays, state={"best": {"round": 1, "psnr_db": 20.0}})
    assert trained_weights(tmp_path, best=True)["w"].tolist() == [1, 1, 1]
