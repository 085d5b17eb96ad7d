"""The use of an unpacked zip."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agi_core.config.schema import RunConfig
from agi_core.data.nifti import FloatArray
from agi_core.errors import DataError
from agi_core.export.bundle import FolderEvaluator, predict_by
from agi_core.export.description import Description
from agi_core.inference import predict
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network


@pytest.mark.parametrize("model", [{}, {"alignment": "affine", "neighbours": 1, "prior": "cubic"}])
def test_a_graph_sees_what_the_network_sees(model: Mapping[str, Any]) -> None:
    """Box, neighbours, padding and zeros are as in `predict`; the network itself stands for its graph."""
    config = RunConfig(scenario="T1,T2:PD", reference="T2", model=ModelConfig(**{"widths": (4, 8), **model}))
    network = Network(config)
    network.set_readout(network.readout + 0.5 * (np.arange(len(network.readout)) == 0))  # the constant feature
    volumes = np.random.default_rng(0).random((5, 2, 31, 27), dtype=np.float32)
    volumes[..., :4, :] = volumes[..., 22:] = 0
    volumes[2, :, 10, 10] = 0

    def graph(sources: FloatArray) -> FloatArray:
        assert sources.shape[-2] % 2 == sources.shape[-1] % 2 == 0
        with torch.inference_mode():
            made: FloatArray = network.module(torch.from_numpy(sources)).numpy()
        return made

    made = predict_by(graph, volumes, Description.of(config, release="1"))
    assert made.std() > 0.01
    np.testing.assert_allclose(made, predict(network, volumes, batch_size=2), atol=1e-5)


def test_it_starts_without_torch() -> None:
    code = "import sys, agi_core.export.bundle; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_subject_without_a_modality_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no T1\.nii\.gz"):
        FolderEvaluator._file(FolderEvaluator.__new__(FolderEvaluator), tmp_path, "T1")
