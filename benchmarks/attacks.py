"""What a trained model and an update tell of a patient: two attacks, with and without privacy. Resumable.

    python -m benchmarks.attacks [--out runs/attacks]

Membership inference on the model of a federation, and inversion of one subject's update. Data, networks and lots are
made so small that the attacks work where there is no privacy. docs/security.md reads the tables.
"""

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agi_core.host import atomic
from agi_core.privacy.noise import InsecureNoiseWarning
from benchmarks import inversion, membership
from benchmarks.commit import commit


def main() -> None:
    parser = argparse.ArgumentParser(description="Membership inference and gradient inversion, with and without DP.")
    parser.add_argument("--out", type=Path, default=Path("runs/attacks"), help="folder of the results (%(default)s)")
    out_dir: Path = parser.parse_args().out
    out_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", InsecureNoiseWarning)  # fixed seeds, so that the tables can be made again

    data_path = out_dir / "subjects.npy"
    if not data_path.exists():
        np.save(data_path, membership.scan_subjects())
    images = torch.from_numpy(np.load(data_path))
    trained = {
        (name, seed): kept(out_dir, f"membership {name} {seed}", partial(membership.attack, images, setting, seed))
        for seed in range(membership.MODELS)
        for name, setting in membership.SETTINGS.items()
    }
    inverted = {
        (name, seed): kept(out_dir, f"inversion {name} {seed}", partial(inversion.attack, images, setting, seed))
        for seed in range(inversion.SEEDS)
        for name, setting in inversion.SETTINGS.items()
    }
    minutes = sum(result["cpu_s"] for result in (*trained.values(), *inverted.values())) / 60
    print(f"\nCommit {commit()}, {platform.machine()}, one thread, {minutes:.1f} CPU minutes\n")
    print(membership.table(trained))
    print(inversion.table(inverted))


def kept(out_dir: Path, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of that name, made where there is none."""
    path = out_dir / f"{name.replace(' ', '-')}.json"
    if not path.exists():
        started = time.process_time()
        result = make()
        atomic.write_json(path, {**result, "cpu_s": time.process_time() - started})
        print(f"{name}: {time.process_time() - started:.0f} s", flush=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


if __name__ == "__main__":
    main()
