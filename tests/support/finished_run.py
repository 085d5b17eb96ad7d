"""The folder of a run that has ended, by hand: a model with random weights, two sites, a final test."""

from pathlib import Path
from typing import Any

import numpy as np

from agi_core.config.schema import FederationConfig, GridConfig, RunConfig
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.run import run_folder
from agi_core.run.checkpoint import WEIGHTS, save_checkpoint
from agi_core.run.event_log import EventLog
from agi_core.run.events import ModelTested, RoundFinished
from agi_core.run.scores import Scores, SiteScore
from agi_core.run.summary import summarise, write_summary
from agi_core.scenario import parse_scenario

SITES = {"A": SiteScore({"psnr_db": 25.5, "ssim": 0.9, "mae": 0.03}, 4), "B": SiteScore({"psnr_db": 22.25}, 2)}


def finished_run(
    run_dir: Path, *, scenario: str = "T1,T2:PD", crop: tuple[int, ...] | None = None, **model: Any
) -> Network:
    """Write the folder; the network with its weights."""
    config = RunConfig(
        scenario=scenario,
        reference=parse_scenario(scenario).sources[-1],
        rounds=1,
        model=ModelConfig(**{"widths": (4, 8), **model}),
        grid=GridConfig(crop=crop),
        federation=FederationConfig(sites=("A", "B", "C"), subjects={"A": 20, "B": 10, "C": 5}),
    )
    network = Network(config)
    noise = np.random.default_rng(0)
    weights = {n: a + noise.normal(0, 0.05, a.shape).astype(a.dtype) for n, a in network.weights.items()}
    network.load(weights | {"head.bias": np.full(1, 0.5, dtype=np.float32)})  # clipping leaves something to compare
    run_folder.create(run_dir, config)
    arrays = {f"{WEIGHTS}{name}": array for name, array in network.weights.items()}
    save_checkpoint(run_dir, round=1, arrays=arrays, state={"best": None})
    log = EventLog(run_dir)
    log.append(RoundFinished(round=1, sites=["A", "B"], train_loss={}, seconds={}, subjects={"A": 12}))
    log.append(ModelTested(scores=Scores.over(SITES, {}), suppressed=["C"]))
    write_summary(run_dir, summarise(run_dir, config, wall_s=1.0))
    return network
