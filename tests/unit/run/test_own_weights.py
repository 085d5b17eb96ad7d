import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agi_core.config.schema import Task
from agi_core.errors import RunError
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.protocol import pack, unpack
from agi_core.run.own_weights import load_own_weights, own_weights_path, write_own_weights

TASK = Task(scenario="T1,T2:PD", model=ModelConfig(widths=(4, 4), prior="cubic"))
OWN = {"head.bias": np.array([3.0], np.float32)}


def test_they_stand_in_place_of_the_common_ones(tmp_path: Path) -> None:
    network, path = Network(TASK), own_weights_path(tmp_path, run_id="../../a run")
    write_own_weights(path, OWN, network=network)
    assert path.parent == tmp_path / "heads"
    expected = {name: array.copy() for name, array in {**network.weights, **OWN}.items()}
    load_own_weights(path, network=network)
    for name, array in network.weights.items():
        np.testing.assert_array_equal(array, expected[name])


def test_they_belong_to_the_model_however_it_travelled(tmp_path: Path) -> None:
    """A site may have got the weights as halves, and the run's folder has them whole."""
    there, here, path = Network(TASK), Network(TASK), tmp_path / "own.safetensors"
    there.load(unpack(pack(here.weights, "float16")))
    assert any(not np.array_equal(array, there.weights[name]) for name, array in here.weights.items())
    write_own_weights(path, OWN, network=there)
    load_own_weights(path, network=here)
    assert here.weights["head.bias"] == [3.0]


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"another": OWN["head.bias"]},
        {"head.bias": np.array([3], np.int8)},
        {"head.bias": OWN["head.bias"] * np.nan},
    ],
)
def test_nothing_and_what_is_no_finite_weight_is_refused(tmp_path: Path, own: dict[str, Any]) -> None:
    write_own_weights(tmp_path / "own.safetensors", own, network=Network(TASK))
    with pytest.raises(RunError, match="holds no finite weights of this model"):
        load_own_weights(tmp_path / "own.safetensors", network=Network(TASK))


def test_another_model_and_another_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    write_own_weights(path, OWN, network=Network(TASK))
    with pytest.raises(RunError, match="belongs to another model"):
        load_own_weights(path, network=Network(dataclasses.replace(TASK, seed=1)))
    path.write_bytes(b"no tensors")
    for damaged in (path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match="has no weights of a site's own"):
            load_own_weights(damaged, network=Network(TASK))
