"""What reading training data costs: share of a CPU step spent waiting for it, and memory with 20 against 200 subjects.

    python benchmarks/data_wait.py

The cache entries are random numbers of a real session's size, written to a temporary folder; they are read once before
the clock starts, so the cache is warm. The step is forward, backward and AdamW of a plain 16-32-64 network on 8 crops
of 96 x 96 from two sources, on one thread: the cheapest step that training has, so the share is an upper bound.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from agi_core.data.cached_session import CachedSession, open_entry
from agi_core.data.datasets import TrainingSlices
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.network import CPU

SHAPE = (20, 3, 120, 112)  # D, M, H, W of a head box in the built-in data
BATCH_SIZE = 8
CROP = (96, 96)
STEPS = 30
DRAWS = 300


def write_entries(cache_dir: Path, count: int, *, shape: tuple[int, int, int, int] = SHAPE) -> list[Path]:
    """`count` training entries of `shape` (D, M, H, W) as `write_entry` writes them."""
    rng = np.random.default_rng(0)
    depth, _, height, width = shape
    entry = {
        "session": "",
        "grid_shape": [width, height, depth],
        "grid_affine": np.eye(4).tolist(),
        "foreground_fraction": [0.5] * depth,
        "source_box": [[0, height], [0, width]],
        "doubts": [],
        "images": {},
    }
    paths = []
    for number in range(count):
        path = cache_dir / f"{number}.safetensors"
        tensors: dict[str, np.ndarray[Any, Any]] = {
            "volumes": rng.random(shape, dtype=np.float32).astype(np.float16),
            "foreground": np.ones((depth, height, width), dtype=np.bool_),
        }
        save_file(tensors, path, metadata={"entry": json.dumps(entry)})
        paths.append(path)
    return paths


def open_entries(paths: list[Path]) -> list[CachedSession]:
    return [entry for path in paths if (entry := open_entry(path, subject_id=path.stem)) is not None]


def anonymous_mib() -> float:
    """Anonymous memory of this process (RssAnon, Linux) in MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def measure_wait(entries: list[CachedSession]) -> None:
    """Print the time of a step with its data, and how much of it the data took."""
    slices = TrainingSlices(entries, crop=CROP)
    generator = torch.Generator().manual_seed(0)
    model = build_model(ModelConfig(conv="plain"), sources=SHAPE[1] - 1)
    optimiser = torch.optim.AdamW(model.parameters())
    wait_s, step_s = [], []
    for _ in range(STEPS):
        start = time.perf_counter()
        sources, target = slices.draw(generator, BATCH_SIZE).on(CPU)
        drawn = time.perf_counter()
        loss = (model(sources) - target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        wait_s.append(drawn - start)
        step_s.append(time.perf_counter() - start)
    share = sum(wait_s) / sum(step_s)
    print(f"data per step   {1e3 * np.median(wait_s):8.2f} ms (median of {STEPS})")
    print(f"step with data  {1e3 * np.median(step_s):8.2f} ms")
    print(f"share waiting   {share:8.2%}    target: under 5%")


def measure_memory(paths: list[Path]) -> float:
    """Anonymous memory after `DRAWS` batches from the entries at `paths`, with the data set still open, MiB."""
    slices = TrainingSlices(open_entries(paths), crop=CROP)
    generator = torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        slices.draw(generator, BATCH_SIZE)
    return anonymous_mib()


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_entries(Path(folder), 200)
        few, many = measure_memory(paths[:20]), measure_memory(paths)
        print(f"RssAnon with  20 subjects  {few:8.1f} MiB")
        print(f"RssAnon with 200 subjects  {many:8.1f} MiB    target: no growth")
        measure_wait(open_entries(paths))


if __name__ == "__main__":
    main()
