"""A run that is killed and resumed ends with the same weights bit for bit, and all engines end with the same."""

import dataclasses
import importlib.util
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.run import run_folder
from agi_core.run.checkpoint import load_last, load_weights
from agi_core.run.event_log import read_events
from agi_core.run.summary import read_summary
from client.app import app as client_app
from server.app import app as server_app
from simulations import workers
from simulations.local_grid import run_in_process
from simulations.run import main
from simulations.simulation import simulate
from simulations.sites import find_sites, write_sites
from tests.support.small_data import SMALL

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0
LONG_ENOUGH = ("training.local_steps=15", "rounds=3")  # for a round to last until the signal arrives


def events_of(run_dir: Path) -> list[str]:
    """What the running process has noted so far, as `event round`."""
    if not (run_dir / "events.jsonl").is_file():
        return []
    return [f"{event.kind} {getattr(event, 'round', '')}".strip() for _, event in read_events(run_dir)]


def kill_when(process: subprocess.Popen[bytes], run_dir: Path, event: str) -> None:
    """SIGKILL as soon as the event is on disk."""
    deadline = time.monotonic() + DEADLINE_S
    while event not in events_of(run_dir):
        assert process.poll() is None, f"the run ended before {event}"
        assert time.monotonic() < deadline, f"{event} did not come within {DEADLINE_S} s"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(DEADLINE_S) == -signal.SIGKILL


@pytest.mark.slow
def test_kill_minus_nine_and_resume(ixi_dir: Path, cache_dir: Path, tmp_path: Path) -> None:
    settings = [*SMALL, *LONG_ENOUGH, f"data.cache_dir={cache_dir}", "federation.server_momentum=0.5"]
    command = ["--clients", "2", "--data", str(ixi_dir), *settings]
    broken_dir, whole_dir = tmp_path / "broken", tmp_path / "whole"
    script = str(ROOT / "simulations" / "run.py")
    with subprocess.Popen(
        [sys.executable, script, *command, "--out", str(broken_dir)], stdout=subprocess.DEVNULL, cwd=tmp_path
    ) as process:
        kill_when(process, broken_dir, "round_started 2")
    assert "round_finished 1" in events_of(broken_dir)
    assert "round_finished 2" not in events_of(broken_dir)

    assert main([*command, "--out", str(broken_dir), "--resume"]) == 0
    assert main([*command, "--out", str(whole_dir)]) == 0
    broken, whole = load_weights(broken_dir), load_weights(whole_dir)
    assert set(broken) == set(whole)
    for name, array in whole.items():
        np.testing.assert_array_equal(broken[name], array)
    assert events_of(broken_dir) == events_of(whole_dir)  # the interrupted round is there once
    figures = [json.loads((run / "summary.json").read_text()) for run in (broken_dir, whole_dir)]
    assert figures[0]["sites"] == figures[1]["sites"]


@pytest.mark.slow
def test_processes_change_no_figure(small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 3)  # one waits for the two sites
    settings = ["model.prior=cubic", "personal=head", "rounds=1"]
    whole = load_config(None, overrides={"clients": 2}, assignments=settings, base=small_config)
    for engine in ("in-process", "processes"):
        config = dataclasses.replace(whole, engine=engine)
        simulate(config, tmp_path / engine, resume=False, compare=False, console=Console(file=io.StringIO()))
    ours, theirs = load_weights(tmp_path / "in-process"), load_weights(tmp_path / "processes")
    for name, array in ours.items():
        np.testing.assert_array_equal(theirs[name], array)
    figures = [read_summary(tmp_path / engine) for engine in ("in-process", "processes")]
    one, two = (summary and dataclasses.replace(summary, wall_s=0.0) for summary in figures)
    assert one
    assert one.baselines["local_only"].sites
    assert one == two


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the ray extra is not installed")
def test_both_engines_end_with_the_same_weights(small_config: RunConfig, tmp_path: Path) -> None:
    from simulations.ray_engine import run_on_ray

    config, federation = find_sites(dataclasses.replace(small_config, clients=2))
    for engine in ("in-process", "ray"):
        run_folder.create(tmp_path / engine, config)
        site_paths = write_sites(tmp_path / engine, config, federation)
        node_configs = [{"site": site, "site-config": str(path)} for site, path in site_paths.items()]
        run_config = {"run-dir": str(tmp_path / engine)}
        if engine == "ray":
            run_on_ray(server_app, client_app, node_configs=node_configs, run_config=run_config, threads=1, gpus=0.0)
        else:
            run_in_process(server_app, client_app, node_configs=node_configs, run_config=run_config)
    last = load_last(tmp_path / "ray")
    assert last is not None
    assert last[0] == config.rounds
    ours, theirs = load_weights(tmp_path / "in-process"), load_weights(tmp_path / "ray")
    for name, array in ours.items():
        np.testing.assert_allclose(theirs[name], array, rtol=0, atol=1e-6)
