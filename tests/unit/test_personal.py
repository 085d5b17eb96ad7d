"""What a site makes its own, of a real network on prepared sessions."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agi_core import personal
from agi_core.config.schema import GridConfig, Personal, Task, TrainingConfig
from agi_core.data.datasets import TrainingSlices
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.ridge import Vector
from tests.support.cache_entries import write_entry

TASK = Task(
    scenario="T1,T2:PD",
    model=ModelConfig(widths=(4, 4), conv="plain", prior="cubic"),
    training=TrainingConfig(local_steps=1, batch_size=1),
    grid=GridConfig(crop=(16, 16)),
)


@pytest.mark.parametrize("way", ["head", "norms", "finetune"])
def test_an_own_last_layer_is_shrunk_to_the_common_prior_however_the_rest_was_trained(
    way: Personal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, task, priors = np.random.default_rng(0), dataclasses.replace(TASK, personal=way), list[Vector | None]()
    network, solve = Network(task), personal.own_readout
    sessions = [write_entry(tmp_path / name, rng.random((4, 3, 16, 16), dtype=np.float32)) for name in "ab"]

    def solved(network: Network, *args: Any, **kwargs: Any) -> Vector:
        priors.append(network.prior)
        return solve(network, *args, **kwargs)

    monkeypatch.setattr(personal, "own_readout", solved)
    network.set_prior(common := np.linspace(0, 0.1, 10))
    own = personal.own_weights(network, TrainingSlices.of(task, sessions), task=task, site="A")
    (prior,) = priors
    assert prior == pytest.approx(common)
    assert own["prior.coefficients"] != pytest.approx(common)
    assert network.prior == pytest.approx(common)
