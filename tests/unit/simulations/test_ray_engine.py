"""What Ray is asked for; `tests/integration/test_kill.py` runs it where it is installed."""

from typing import Any

import pytest
import torch

from agi_core.config.schema import RunConfig
from simulations import ray_engine, simulation


@pytest.mark.parametrize(("device", "asked"), [("cuda", 0.25), ("cpu", 0.0)])
def test_a_client_takes_its_part_of_a_gpu_where_it_works_on_one(
    monkeypatch: pytest.MonkeyPatch, device: str, asked: float
) -> None:
    """On a machine with a GPU."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(simulation, "open_device", lambda name, **_: torch.device(name))
    monkeypatch.setattr(ray_engine, "check_ray", lambda: None)
    monkeypatch.setattr(ray_engine, "run_simulation", lambda *_, **options: calls.append(options))
    run = simulation.engine_of(RunConfig(engine="ray", device=device, threads=2, gpus_per_client=0.25))
    run(node_configs=[{"site": "A"}, {"site": "B"}], run_config={})
    (options,) = calls
    assert options["num_supernodes"] == 2
    assert options["backend_config"]["client_resources"] == {"num_cpus": 2, "num_gpus": asked}
