"""The run folder: everything that one run reads and writes.

```
config.yaml           the resolved configuration
environment.json      versions, machine, threads (`Environment`)
events.jsonl          what happened, line by line (`agi_core.run.event_log`)
keys.json             what becomes of each weight (`agi_core.keys`)
initial_weights.safetensors   what the run starts from, if that is a file (`agi_core.run.initial_weights`)
checkpoints/          the last, the previous and the best model, with the run's state (`agi_core.run.checkpoint`)
summary.json          the figures at the end (`agi_core.run.summary`)
report.html           all of it, to look at (`agi_core.report`)
```

A run without privacy also has `error_model.safetensors` (`agi_core.run.error_model`) and `known_range.json`
(`agi_core.known_range`). `calibrate` makes others, and `error_model-*.safetensors` for own last layers.

A deployed run has `styles/SITE.safetensors` of each site that shares its own last layer (`agi_core.run.own_weights`).

A simulation also has

```
splits.json           {site: {"train": [...], "validation": [...], "test": [...]}}, subject ids
fingerprints.json     {subject id: fingerprint of each of its scans} (`agi_core.data.fingerprint`)
examples.safetensors  example slices for the report
sites/  baselines/  ledgers/  ledger_heads/
```
"""

import itertools
import os
import platform
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from agi_core.cells import is_vocabulary
from agi_core.config.load import read_yaml, to_yaml
from agi_core.config.schema import RunConfig
from agi_core.errors import ConfigError, RunError
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


def unused(runs_dir: Path) -> Path:
    """Make an empty folder in `runs_dir`, called after date and time. Of programs that ask in the same second, each
    gets its own.

    Raises:
        RunError: it cannot be made.
    """
    name = time.strftime("%Y-%m-%d-%H%M%S")
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    for run_dir in (runs_dir / name for name in names):
        try:
            run_dir.mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise _write_error(run_dir, error) from None
    return run_dir


def create(run_dir: Path, config: RunConfig) -> None:
    """Make a new run folder. Of programs that ask for the same one, one gets it.

    Raises:
        RunError: the folder holds something already, or cannot be written.
    """
    with begun(run_dir, config):
        pass


@contextmanager
def begun(run_dir: Path, config: RunConfig) -> Iterator[None]:
    """As `create`, for a block in which the run begins: if it fails there, the folder is gone, or empty as it was."""
    is_new = not run_dir.exists()
    _claim(run_dir)
    try:
        write_config(run_dir, config)
        atomic.write_json(run_dir / "environment.json", environment(config).to_json())
        yield
    except BaseException:
        with suppress(OSError):  # what went wrong before is what the user must know
            for path in run_dir.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if is_new:
                run_dir.rmdir()
        raise


def _claim(run_dir: Path) -> None:
    """Make the folder this process's own; mkdir succeeds for one process alone."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        check_empty(run_dir)
        try:
            (run_dir / "checkpoints").mkdir()
        except FileExistsError:
            raise _taken(run_dir) from None
    except OSError as error:
        raise _write_error(run_dir, error) from None


def check_empty(run_dir: Path) -> None:
    """Raise RunError where a new run cannot have the folder, because it holds something already."""
    if run_dir.is_dir() and any(run_dir.iterdir()):
        raise _taken(run_dir)


def _taken(run_dir: Path) -> RunError:
    return RunError(f"{run_dir} is not empty; choose another --out, or continue the run in it with --resume")


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


def open_scenario(run_dir: Path) -> RunConfig:
    """As `open_existing`, for whoever needs one model.

    Raises:
        ConfigError: the run is one over a vocabulary; the message has the folders of its cells.
    """
    config = open_existing(run_dir)
    if is_vocabulary(config.scenario):
        cells = ", ".join(sorted(path.name for path in (run_dir / "cells").glob("*")))
        raise ConfigError(
            f"{run_dir} holds a model for each cell of {config.scenario}; name the folder of one cell,"
            f" {run_dir / 'cells' / 'CELL'}, with a CELL of: {cells}"
        )
    return config


def environment(config: RunConfig) -> Environment:
    """This machine and its programs."""
    import torch  # here, because it takes seconds to import, and whoever reads a run has no use for it

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
    return Environment.read(run_dir / "environment.json") or Environment()


def read_splits(run_dir: Path) -> dict[str, dict[str, list[str]]]:
    """The subject ids of each site by their use; empty in a deployed run. Raises RunError where the file is damaged."""
    return read_json(run_dir / "splits.json") or {}


def read_parts(run_dir: Path) -> dict[str, str]:
    """{fingerprint of a scan: `train`, `validation` or `test`}; empty in a deployed run, and in one of an earlier
    release, which kept no fingerprint of each scan. Raises RunError."""
    content = read_json(run_dir / "fingerprints.json") or {}
    return {
        scan: part
        for split in read_splits(run_dir).values()
        for part, subjects in split.items()
        for subject in subjects
        if isinstance(scans := content.get(subject), list)
        for scan in scans
    }


def read_namesakes(run_dir: Path, scans: Mapping[str, Sequence[str]], *, parts: Collection[str]) -> list[str]:
    """Of subjects {id: fingerprints of scans}, those with the id of a subject that had one of these parts in a
    simulation, and other files than the run has seen: the same person in files that were written anew, or another of
    the same name. Raises RunError."""
    known = read_parts(run_dir)
    ids = {
        subject
        for split in read_splits(run_dir).values()
        for part, subjects in split.items()
        if part in parts
        for subject in subjects
    }
    return [subject for subject, its in scans.items() if subject in ids and not known.keys() & {*its}]


def _write_error(run_dir: Path, error: OSError) -> RunError:
    return RunError(f"cannot write the run folder {run_dir}: {error.strerror}; choose another --out")
