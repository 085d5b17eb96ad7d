import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agi_core.config.schema import Task
from agi_core.errors import RunError
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.run.error_model import read_error_model, write_error_model
from agi_core.uncertainty import ErrorModel

TASK = Task(scenario="T1,T2:PD", model=ModelConfig(widths=(4, 4), prior="cubic"))
MODEL = ErrorModel(np.arange(14.0), np.arange(66), 3, 2, ("a", "b"))


def test_it_comes_back_for_its_own_weights_alone(tmp_path: Path) -> None:
    network, path = Network(TASK), tmp_path / "errors.safetensors"
    write_error_model(path, MODEL, network=network)
    again = read_error_model(path, network=network)
    np.testing.assert_array_equal(again.layer, MODEL.layer)
    np.testing.assert_array_equal(again.counts, MODEL.counts)
    assert (again.subjects, again.sites, again.calibrated_on) == (3, 2, ("a", "b"))
    network.set_readout(np.arange(14.0))  # errors depend on the last layer too
    with pytest.raises(RunError, match="belongs to other weights; calibrate with the same --weights and --head"):
        read_error_model(path, network=network)


def test_a_missing_and_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "errors.safetensors"
    with pytest.raises(RunError, match=r"is missing.*python -m agi_core calibrate"):
        read_error_model(path, network=Network(TASK))
    path.write_bytes(b"no tensors")
    with pytest.raises(RunError, match="is no error model"):
        read_error_model(path, network=Network(TASK))


@pytest.mark.parametrize(
    "change",
    [
        {"layer": np.arange(13.0)},
        {"layer": np.full(14, np.nan)},
        {"counts": np.arange(1)},
        {"counts": np.zeros(66, np.int64)},
        {"counts": -np.arange(66)},
        {"subjects": 0},
    ],
)
def test_what_no_calibration_makes_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    network, path = Network(TASK), tmp_path / "errors.safetensors"
    write_error_model(path, dataclasses.replace(MODEL, **change), network=network)
    with pytest.raises(RunError, match="is no error model of this network; make it again"):
        read_error_model(path, network=network)
