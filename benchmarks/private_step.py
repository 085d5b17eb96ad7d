"""Cost of a private step: time and peak memory against a step without privacy on the same slices, and Opacus's hooks.

    python benchmarks/private_step.py

A lot of subjects with a few slices each. Without privacy: one batch of all slices. Private: one backward per subject.
Opacus: per-sample gradients by hooks (GradSampleModule), whose unit is the slice, so it is here for its cost alone; it
knows no CAGR convolution. The steps take turns, in process time, and a ratio is the median over the turns; each peak of
resident memory is that of a process of its own that takes two steps.
"""

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.privacy.noise import system_noise
from agi_core.privacy.patient_sgd import Mechanism, private_step
from agi_core.privacy.trainable import parameters_of

SOURCES = 2
Step = Callable[[], None]
Slices = tuple[Tensor, Tensor]  # sources (subjects, slices, M, h, w) and target (subjects, slices, 1, h, w)


def without_privacy(model: nn.Module, slices: Slices) -> Step:
    """One batch of all slices: forward, L1, backward, AdamW."""
    sources, target = (tensor.flatten(0, 1) for tensor in slices)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(F.l1_loss(model(sources), target))
        optimizer.step()

    return step


def private(model: nn.Module, slices: Slices, *, part: str) -> Step:
    """A step of `agi_core.privacy.patient_sgd` on all subjects."""
    sources, target = slices
    chosen = list(parameters_of(part, model).values())
    model.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(chosen, lr=1e-3)
    mechanism, count = Mechanism(1.0, 1.0, 1.0, len(sources)), len(sources)

    def step() -> None:
        private_step(
            model,
            optimizer,
            lambda subject: F.l1_loss(model(sources[subject]), target[subject]),
            count=count,
            mechanism=mechanism,
            noise=system_noise(),
        )

    return step


def opacus_hooks(model: nn.Module, slices: Slices) -> Step:
    """A step of Opacus's DPOptimizer on the same batch, a slice being its sample."""
    sources, target = (tensor.flatten(0, 1) for tensor in slices)
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    wrapped = GradSampleModule(model)
    adamw = torch.optim.AdamW(wrapped.parameters(), lr=1e-3)
    optimizer = DPOptimizer(adamw, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=len(sources))

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(F.l1_loss(wrapped(sources), target))
        optimizer.step()

    return step


STEPS: dict[str, Callable[[nn.Module, Slices], Step]] = {
    "without privacy": without_privacy,
    "private, all weights": partial(private, part="all"),
    "private, norms": partial(private, part="norms"),
    "private, last": partial(private, part="last"),
    "Opacus hooks, per slice": opacus_hooks,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=96, help="pixels along each axis (%(default)s)")
    parser.add_argument("--subjects", type=int, default=8, help="of the lot (%(default)s)")
    parser.add_argument("--slices", type=int, default=4, help="of each subject (%(default)s)")
    parser.add_argument("--turns", type=int, default=7, help="timed steps of each (%(default)s)")
    parser.add_argument("--alone", nargs=2, metavar=("CONV", "STEP"), help="take two steps and print the peak memory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.alone:
        conv, name = arguments.alone
        step = make(conv, name, arguments)
        step()
        step()
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
        print(int(line.split()[1]) // 1024)  # Linux; ru_maxrss would start at the parent's
        return

    shape = f"{arguments.subjects} subjects x {arguments.slices} slices of {arguments.size}x{arguments.size}"
    print(f"{shape}, one thread, torch {torch.__version__}, median of {arguments.turns} turns\n")
    print("| network | step | ms | ratio | peak MiB |\n|---|---|---|---|---|")
    for conv in ("plain", "cagr"):
        names = [name for name in STEPS if conv == "plain" or not name.startswith("Opacus")]
        steps = {name: make(conv, name, arguments) for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(1 + arguments.turns):
            for name, step in steps.items():
                started = time.process_time()
                step()
                if turn:  # the first one warms up
                    seconds[name].append(time.process_time() - started)
        for name, durations in seconds.items():
            ratio = median(own / base for own, base in zip(durations, seconds["without privacy"], strict=True))
            peak = peak_mib(conv, name, arguments)
            print(f"| {conv} | {name} | {1000 * median(durations):.0f} | {ratio:.2f} | {peak} |", flush=True)


def make(conv: str, name: str, arguments: argparse.Namespace) -> Step:
    """A step on a network of its own and random slices."""
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.subjects, arguments.slices, SOURCES + 1, arguments.size, arguments.size)
    images = torch.rand(shape, generator=generator)
    model = build_model(ModelConfig(conv=conv), sources=SOURCES)
    return STEPS[name](model, (images[:, :, :-1], images[:, :, -1:]))


def peak_mib(conv: str, name: str, arguments: argparse.Namespace) -> int:
    """Peak resident memory of a process that takes two such steps, imports included."""
    options = [f"--{option}={getattr(arguments, option)}" for option in ("size", "subjects", "slices")]
    command = [sys.executable, __file__, *options, "--alone", conv, name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
