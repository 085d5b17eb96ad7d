"""What it gains, and costs, that freed memory is kept (`agi_core.host.allocator`): time, page faults and peak memory.

    python -m benchmarks.allocator

Each row is a process of its own, of one thread. The processes with and without the setting take turns, and a ratio is
the median over the turns of (time with / time without). Peak memory is resident, imports included. *predict* is a batch
of slices, *volume* a whole volume as `synthesize` predicts it.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from statistics import median

import torch

from agi_core.config.schema import Task
from agi_core.host.allocator import keep_freed_memory
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.prediction import predict_volume

MODELS = {"plain": ModelConfig(conv="plain"), "default": ModelConfig(alignment="dense", neighbours=1)}
WORKS = ("predict", "volume", "train")
BATCH, SOURCES, SLICES = 8, 2, 150
Figures = tuple[float, int, int]  # CPU seconds per step, page faults per step, peak in MiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=256, help="pixels along each axis (%(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="counted steps of each process; one volume (%(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="pairs of processes (%(default)s)")
    parser.add_argument("--alone", nargs=3, metavar=("MODEL", "WORK", "KEPT"), help="run here and print the figures")
    arguments = parser.parse_args()
    if arguments.alone:
        print(*here(*arguments.alone, size=arguments.size, steps=arguments.steps))
        return

    print(f"{BATCH} x {arguments.size}x{arguments.size}, one thread, torch {torch.__version__}\n")
    print("| model | work | time, ratio | s per step | page faults per step | peak MiB |\n|---|---|---|---|---|---|")
    for model in MODELS:
        for work in WORKS:
            turns = [[child(model, work, kept, arguments) for kept in ("", "kept")] for _ in range(arguments.turns)]
            ratio = median(kept[0] / given[0] for given, kept in turns)
            before, after = (
                [median(column) for column in zip(*side, strict=True)] for side in zip(*turns, strict=True)
            )
            seconds, faults, peak = (
                f"{a:{form}} -> {b:{form}}" for a, b, form in zip(before, after, (".2f", ",.0f", ".0f"), strict=True)
            )
            print(f"| {model} | {work} | **{ratio:.2f}** | {seconds} | {faults} | {peak} |", flush=True)


def child(model: str, work: str, kept: str, arguments: argparse.Namespace) -> Figures:
    """The figures of a fresh process."""
    options = [f"--size={arguments.size}", f"--steps={arguments.steps}", "--alone", model, work, kept]
    command = [sys.executable, "-m", "benchmarks.allocator", *options]
    seconds, faults, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), int(faults), int(peak)


def here(model: str, work: str, kept: str, *, size: int, steps: int) -> Figures:
    """The figures of this process, after one batch that is not counted."""
    torch.set_num_threads(1)
    if kept:
        keep_freed_memory()
    if work == "volume":
        network, box = Network(Task("T1,T2:PD", model=MODELS[model])), (slice(0, size), slice(0, size))
        volume = torch.rand(SLICES, SOURCES, size, size, generator=torch.Generator().manual_seed(0))
        predict_volume(network, volume[:BATCH], box=box, batch_size=BATCH)
        return counted(lambda: predict_volume(network, volume, box=box, batch_size=BATCH), steps=1)
    trained = build_model(MODELS[model], sources=SOURCES)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    slab = [2 * MODELS[model].neighbours + 1] if MODELS[model].neighbours else []
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand([BATCH, SOURCES, *slab, size, size], generator=generator)
    target = torch.rand(BATCH, 1, size, size, generator=generator)

    def step() -> None:
        if work == "predict":
            with torch.inference_mode():
                trained(sources)
            return
        optimizer.zero_grad()
        (trained(sources) - target).abs().mean().backward()
        optimizer.step()

    step()
    return counted(step, steps=steps)


def counted(step: Callable[[], object], *, steps: int) -> Figures:
    """What the operating system counts of so many steps, per step."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(steps):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds / steps, (after.ru_minflt - before.ru_minflt) // steps, after.ru_maxrss // 1024


if __name__ == "__main__":
    main()
