"""The run folder: configuration, environment, splits, events and summary of one run.

```
config.yaml       resolved configuration
environment.json  versions, machine, threads
splits.json       {site: {"train": [...], "validation": [...], "test": [...]}} - subject ids; written by simulations
only events.jsonl      one JSON object per line: {"t_s": seconds of the run, "event": name, ...} summary.json      the
figures at the end report.html       all of it, to look at checkpoints/      last, previous and best model with the
state of the run (server/run_state.py) ```
"""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from agi_core.config.load import read_yaml, to_yaml
from agi_core.config.schema import RunConfig
from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.run import progress

Event = dict[str, Any]


class EventLog:
    """Appends to `events.jsonl`, each line flushed to disk. `t_s` counts the run's own seconds, interruptions left
    out."""

    def __init__(self, run_dir: Path, *, elapsed_s: float = 0.0) -> None:
        self.path = run_dir / "events.jsonl"
        self._start = time.monotonic() - elapsed_s

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, event: str, **fields: Any) -> None:
        record = {"t_s": round(self.elapsed_s, 3), "event": event, **fields}
        atomic.append_line(self.path, json.dumps(record, allow_nan=False))
        progress.report(record)

    def cut_back(self, size_bytes: int) -> None:
        """Forget everything after the first `size_bytes` bytes: the events of an interrupted round."""
        if self.size_bytes > size_bytes:
            with self.path.open("r+b") as file:
                file.truncate(size_bytes)
                os.fsync(file.fileno())


def read_events(run_dir: Path) -> list[Event]:
    """All events of a run, in order; a last line that a crash cut short is left out."""
    path = run_dir / "events.jsonl"
    if not path.is_file():
        raise RunError(f"{path} does not exist; is {run_dir} the folder of a run?")
    events = []
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            events.append(json.loads(line))
    return events


def check_new(run_dir: Path) -> None:
    """Refuse a run folder that `create` would refuse, without making anything: for before hours of reading scans.

    Raises:
        RunError: the folder holds something already, or cannot be made or written.
    """
    try:
        if run_dir.exists() and any(run_dir.iterdir()):
            raise RunError(f"{run_dir} is not empty; choose another --out, or continue the run in it with --resume")
        existing = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise RunError(f"the run folder {run_dir} cannot be made below {existing}; choose another --out")
    except OSError as error:
        raise _write_error(run_dir, error) from None


def create(run_dir: Path, config: RunConfig) -> None:
    """Make a new run folder.

    Raises:
        RunError: the folder holds something already, or cannot be written.
    """
    check_new(run_dir)
    try:
        (run_dir / "checkpoints").mkdir(parents=True)
        write_config(run_dir, config)
        atomic.write_json(run_dir / "environment.json", environment(config))
    except OSError as error:
        raise _write_error(run_dir, error) from None


def write_config(run_dir: Path, config: RunConfig) -> None:
    """Write the configuration of a run folder, or replace it between two processes of a run."""
    atomic.write_text(run_dir / "config.yaml", to_yaml(config))


def open_existing(run_dir: Path) -> RunConfig:
    """The configuration of an existing run folder.

    Raises:
        RunError: there is no run in that folder.
    """
    if not (run_dir / "config.yaml").is_file():
        raise RunError(f"{run_dir} holds no run (config.yaml is missing); check the path")
    return read_yaml(run_dir / "config.yaml")


def environment(config: RunConfig) -> dict[str, Any]:
    """What the figures of a run depend on besides its configuration."""
    packages = ("agi-fed", "flwr", "torch", "monai", "nibabel", "numpy", "scipy")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": config.threads,
        "packages": {name: version(name) for name in packages},
    }


def summarise(
    run_dir: Path, config: RunConfig, *, wall_s: float, baselines: Mapping[str, Any], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Write and return summary.json of a tested run. `more` is what only the caller knows: where the
    scans came from, what privacy was spent."""
    tested = [event for event in read_events(run_dir) if event["event"] == "tested"][-1]
    summary = {
        "final": tested["final"],
        "sites": tested["sites"],
        "unseen_sites": tested["unseen_sites"],
        "suppressed": tested["suppressed"],
        "baselines": {name: {**row["final"], **row} for name, row in baselines.items()},
        "best": tested["best"],
        "rounds": config.rounds,
        "wall_s": round(wall_s, 1),
        "scenario": config.scenario,
        "reference": config.reference,
        "model": "AGI-Net" if config.model.conv == "cagr" else "plain ResUNet",
        **more,
    }
    write_summary(run_dir, summary)
    return summary


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json, with `allow_nan` off: a figure is a number or it is absent."""
    atomic.write_json(run_dir / "summary.json", summary)


def _write_error(run_dir: Path, error: OSError) -> RunError:
    return RunError(f"cannot write the run folder {run_dir}: {error.strerror}; choose another --out")
