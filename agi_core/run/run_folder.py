"""The run folder: everything that one run reads and writes.

```
config.yaml           the resolved configuration
environment.json      versions, machine, threads (`Environment`)
events.jsonl          what happened, line by line (`agi_core.run.event_log`)
checkpoints/          the last, the previous and the best model, with the run's state (`agi_core.run.checkpoint`)
summary.json          the figures at the end (`agi_core.run.summary`)
report.html           all of it, to look at (`agi_core.report`)
```

A simulation also has

```
splits.json           {site: {"train": [...], "validation": [...], "test": [...]}}, subject ids
examples.safetensors  example slices for the report
sites/  baselines/  ledgers/  ledger_heads/
```
"""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from agi_core.config.load import read_yaml, to_yaml
from agi_core.config.schema import RunConfig
from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.run.json_objects import JsonObject, read_json


@dataclass(frozen=True)
class Environment(JsonObject):
    """What the figures of a run depend on besides its configuration. None, and no packages: not known."""

    python: str | None = None
    platform: str | None = None
    processor: str | None = None
    cpus: int | None = None
    gpu: str | None = None
    threads: int | None = None
    packages: Mapping[str, str] = field(default_factory=dict)


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
        atomic.write_json(run_dir / "environment.json", environment(config).to_json())
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


def environment(config: RunConfig) -> Environment:
    """This machine and its programs."""
    packages = ("agi-fed", "flwr", "torch", "monai", "nibabel", "numpy", "scipy")
    return Environment(
        python=sys.version.split()[0],
        platform=platform.platform(),
        processor=platform.machine(),
        cpus=os.cpu_count(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        threads=config.threads,
        packages={name: version(name) for name in packages},
    )


def read_environment(run_dir: Path) -> Environment:
    """Where a run was made. Raises RunError where the file is damaged."""
    return Environment.from_json(read_json(run_dir / "environment.json") or {})


def read_splits(run_dir: Path) -> dict[str, dict[str, list[str]]]:
    """The subject ids of each site by their use; empty in a deployed run. Raises RunError where the file is damaged."""
    return read_json(run_dir / "splits.json") or {}


def _write_error(run_dir: Path, error: OSError) -> RunError:
    return RunError(f"cannot write the run folder {run_dir}: {error.strerror}; choose another --out")
