"""What Ray is asked for; `tests/integration/test_kill.py` runs it where it is installed."""

from typing import Any

import pytest
import torch

from client.app import app as client_app
from server.app import app as server_app
from simulations import ray_engine


@pytest.mark.parametrize(("there", "asked"), [(True, 0.25), (False, 0.0)])
def test_a_client_takes_its_part_of_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, there: bool, asked: float
) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(ray_engine, "run_simulation", lambda *_, **options: calls.append(options))
    nodes = [{"site": "A"}, {"site": "B"}]
    ray_engine.run_on_ray(server_app, client_app, node_configs=nodes, run_config={}, threads=2, gpus=0.25)
    (options,) = calls
    assert options["num_supernodes"] == 2
    assert options["backend_config"]["client_resources"] == {"num_cpus": 2, "num_gpus": asked}
