"""Time and peak memory of `python -m agi_core synthesize` for one BraTS subject, by 2-D and by 3-D network.

    python benchmarks/synthesis_memory.py DATA/BraTS-GLI-90001-000

The networks are untrained: neither time nor memory depends on their weights. Each command is a process of its own, on
one thread, with the default network (16-32-64 channels) and, in 3-D, the default windows.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agi_core.config.load import load_config
from agi_core.network import Network
from agi_core.run import run_folder
from agi_core.run.checkpoint import WEIGHTS, save_checkpoint


def write_run(run_dir: Path, *, dims: int) -> tuple[str, ...]:
    """A run folder with an untrained network of the usual BraTS scenario; returns the sources' names."""
    config = load_config(None, overrides={"data.layout": "brats", "model.dims": dims})
    run_folder.create(run_dir, config)
    network = Network(config)
    arrays = {WEIGHTS + name: array for name, array in network.weights.items()}
    save_checkpoint(run_dir, round=1, arrays=arrays, state={})
    return network.scenario.sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", type=Path, help="folder of one subject: NAME/NAME-t1n.nii.gz and so on")
    subject = parser.parse_args().subject
    for dims in (2, 3):
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder) / "run"
            sources = write_run(run_dir, dims=dims)
            given = [f"--source={name}={subject / f'{subject.name}-{name}.nii.gz'}" for name in sources]
            command = [sys.executable, "-m", "agi_core", "synthesize", "--run", str(run_dir), *given]
            started = time.monotonic()
            child = subprocess.Popen([*command, "--out", str(Path(folder) / "out.nii.gz")], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            assert status == 0, f"the {dims}-D synthesis failed"
            cpu_s, wall_s = usage.ru_utime + usage.ru_stime, time.monotonic() - started
            peak_mib = usage.ru_maxrss / 1024  # Linux counts in KiB
            print(f"{dims}-D: {cpu_s:6.1f} s of CPU, {wall_s:6.1f} s, peak {peak_mib:6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
