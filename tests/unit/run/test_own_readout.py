import dataclasses
from pathlib import Path

import numpy as np
import pytest

from agi_core.config.schema import Task
from agi_core.errors import RunError
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.run.own_readout import own_readout_path, read_own_readout, write_own_readout

TASK = Task(scenario="T1,T2:PD", model=ModelConfig(widths=(4, 4), prior="cubic"))
OWN = np.arange(14.0)


def test_it_comes_back_for_its_own_model_whatever_last_layer_that_has(tmp_path: Path) -> None:
    network, path = Network(TASK), own_readout_path(tmp_path, run_id="../../a run")
    write_own_readout(path, OWN, network=network)
    assert path.parent == tmp_path / "heads"
    network.set_readout(OWN)  # of the model, only the last layer has changed
    np.testing.assert_array_equal(read_own_readout(path, network=network), OWN)


def test_another_model_and_another_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    write_own_readout(path, OWN, network=Network(TASK))
    with pytest.raises(RunError, match="belongs to another model"):
        read_own_readout(path, network=Network(dataclasses.replace(TASK, seed=1)))
    path.write_bytes(b"no tensors")
    for damaged in (path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match="is no last layer of a site"):
            read_own_readout(damaged, network=Network(TASK))
