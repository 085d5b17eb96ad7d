"""What training costs on a device, for `benchmarks.gpu`: steps, options, data and metrics."""

import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from agi_core.config.schema import GridConfig, PrivacyConfig, Task, TrainingConfig
from agi_core.data.datasets import Batch, Draw, TrainingSlices
from agi_core.metrics import SubjectScore
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.privacy.noise import system_noise
from agi_core.privacy.patient_sgd import Mechanism
from agi_core.training import train_round, train_round_privately
from benchmarks.counted import counted
from benchmarks.data_wait import open_entries, write_entries
from benchmarks.gpu_sizes import SOURCES, Row, Size, deterministic, out_of_time, random_images, timed, variants

SLICES_OF_SUBJECT = 4
COMPILED = ("plain", "cagr", "default")
COMPILING_S = 60.0
"""A network is not compiled any more where less is left: `torch.compile` cannot be ended by a clock."""
Work = Callable[[int], object]
"""Takes so many training steps."""


def steps(device: torch.device, size: Size, until: float) -> list[Row]:
    """A training step of each kind, as `agi_core.training` takes it."""
    reached = peaks(device, size)
    kinds = {"plain": "plain", "aligned": "dense", "cagr": "cagr", "default": "default", "private": "plain"}
    rows: list[Row] = []
    for kind, name in {**kinds, "3-D": "plain, 3-D"}.items():
        if time.monotonic() > until:
            return [*rows, out_of_time(kind)]
        config = variants(size.widths)[name]
        batch, crop = made_up(config, size)
        if kind == "private":
            work = partial(private, config, batch, crop, device)
        else:
            work = partial(plain, config, partial(the_same, batch), len(batch.images), crop, device)
        rows.append({"step": kind, **cost(work, device, count=len(batch.images), size=size, peaks=reached)})
    return rows


def options(device: torch.device, size: Size, until: float) -> list[Row]:
    """What `deterministic=true` costs and `compile=true` gains: a step with it, beside the same step without."""
    rows: list[Row] = []
    for option, names in {"deterministic": ("default", "default, 3-D"), "compile": COMPILED}.items():
        for name in names:
            if time.monotonic() > until - COMPILING_S * (option == "compile"):
                return [*rows, out_of_time(f"{option}, {name}")]
            config = variants(size.widths)[name]
            batch, crop = made_up(config, size)
            make = partial(plain, config, partial(the_same, batch), len(batch.images), crop, device)
            without = measured(make(), device, size)
            if option == "compile":
                its = measured(make(compiler=size.compiler), device, size)
            else:
                with deterministic():
                    its = measured(make(), device, size)
            rows.append({"option": option, "step": name, **its, "times without": its["ms"] / without["ms"]})
    return rows


def measured(work: Work, device: torch.device, size: Size) -> Row:
    """The first step, in which a network is compiled; then a step, and what it launches."""
    first_s = timed(partial(work, 1), device)
    ms = 1000 * timed(partial(work, size.steps), device) / size.steps
    launches = kernels(partial(work, 3)) - kernels(partial(work, 2)) if device.type == "cuda" else None
    return {"first step s": first_s, "ms": ms, "launches": launches}


def made_up(config: ModelConfig, size: Size) -> tuple[Batch, tuple[int, ...]]:
    """A batch for a network, and its crop: a quarter as many patches in 3-D as slices."""
    crop = size.patch if config.dims == 3 else (size.pixels, size.pixels)
    count = max(1, size.batch // 4) if config.dims == 3 else size.batch
    images = random_images(config, count=count, space=[*crop[2:], *crop[:2]])
    return Batch(images, config.neighbours), crop


def plain(
    config: ModelConfig,
    draw: Draw,
    batch_size: int,
    crop: tuple[int, ...],
    device: torch.device,
    *,
    compiler: str | None = None,
) -> Work:
    """Steps without privacy."""
    model = build_model(config, sources=SOURCES).to(device)
    if compiler:
        model.compile(backend=compiler)

    def work(local_steps: int) -> object:
        training = TrainingConfig(local_steps=local_steps, batch_size=batch_size)
        task = Task("T1,T2:PD", model=config, training=training, grid=GridConfig(crop=crop))
        return train_round(model, draw, task=task, site="A", round=1)

    return work


def the_same(batch: Batch, generator: torch.Generator, count: int) -> Batch:
    return batch


def private(config: ModelConfig, batch: Batch, crop: tuple[int, ...], device: torch.device) -> Work:
    """The same with privacy, with all weights trained: the batch's slices are of subjects who are all in each lot."""
    model = build_model(config, sources=SOURCES).to(device)
    count = len(batch.images) // SLICES_OF_SUBJECT
    slices = Batch(batch.images[:SLICES_OF_SUBJECT], batch.neighbours)

    def work(local_steps: int) -> None:
        privacy = PrivacyConfig(epsilon=8.0, trainable="all", lot_rate=1.0, slices_per_subject=SLICES_OF_SUBJECT)
        training = TrainingConfig(local_steps=local_steps)
        train_round_privately(
            model,
            lambda subject, generator, size: slices,
            subjects=[str(number) for number in range(count)],
            mechanism=Mechanism(noise_multiplier=1.0, max_grad_norm=0.3, lot_rate=1.0, subjects=count),
            noise=system_noise(),
            task=Task("T1,T2:PD", model=config, training=training, privacy=privacy, grid=GridConfig(crop=crop)),
            round=1,
        )

    return work


def cost(
    make: Callable[[], Work],
    device: torch.device,
    *,
    count: int,
    size: Size,
    peaks: tuple[float, float],
) -> Row:
    """The figures of one step. What is counted is the difference of rounds of three and of two steps: a round reads its
    losses after the first and the last one."""
    on_gpu, memory = device.type == "cuda", None
    if on_gpu:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    work = make()
    two, three = counted(partial(work, 2)), counted(partial(work, 3))
    if on_gpu:
        memory = (torch.cuda.max_memory_allocated() - before) / 2**20
    flops, traffic = three.flops - two.flops, three.bytes - two.bytes
    synchronisations, launches = three.waits - two.waits, None
    if on_gpu:
        synchronisations, launches = (of(partial(work, 3)) - of(partial(work, 2)) for of in (synchronised, kernels))
    seconds = timed(partial(work, size.steps), device) / size.steps
    return {
        "ms": 1000 * seconds,
        "slices/s": count / seconds,
        "operations": three.operations - two.operations,
        "launches": launches,
        "synchronisations": synchronisations,
        "peak MiB": memory,
        "GFLOP": flops / 1e9,
        "GB": traffic / 1e9,
        "of peak compute": flops / seconds / peaks[0],
        "of peak memory traffic": traffic / seconds / peaks[1],
    }


def kernels(work: Callable[[], object]) -> int:
    """Kernels and copies that run on the GPU, by torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        work()
        torch.cuda.synchronize()
    return sum(event.device_type.name == "CUDA" for event in profiled.events() or ())


def synchronised(work: Callable[[], object]) -> int:
    """How often the program waits for the GPU, as torch warns of it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def peaks(device: torch.device, size: Size) -> tuple[float, float]:
    """What the device reaches: operations per second of a matrix product in the precision of training, and bytes per
    second of a copy."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    matrix = torch.rand(size.matrix, size.matrix, device=device).to(dtype)
    copied = torch.empty_like(matrix)
    product_s, copy_s = (
        min(timed(work, device) for _ in range(5)) for work in (lambda: matrix @ matrix, lambda: copied.copy_(matrix))
    )
    return 2 * size.matrix**3 / product_s, 2 * matrix.numel() * matrix.element_size() / copy_s


def throughput(device: torch.device, size: Size, until: float) -> list[Row]:
    """Slices per second of the loader, on one core, until the device has them, of training on what it loads, and of the
    metrics, on the device."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        entries = open_entries(write_entries(Path(folder), 4, shape=(20, 3, size.pixels + 32, size.pixels + 32)))
        for neighbours in (0, 1):
            slices = TrainingSlices(entries, crop=(size.pixels, size.pixels), neighbours=neighbours)
            work = partial(loaded, slices, torch.Generator().manual_seed(0), size.batch, device)
            rows.append({"work": f"loader, neighbours={neighbours}", **rate(work, device, count=size.batch)})
            name = "dense, neighbours" if neighbours else "plain"
            train = plain(variants(size.widths)[name], slices.draw, size.batch, slices.crop, device)
            work = partial(train, size.steps)
            rows.append({"work": f"training from it: {name}", **rate(work, device, count=size.batch * size.steps)})
    images = torch.rand(2, size.batch, 1, size.pixels, size.pixels, device=device)
    add = partial(SubjectScore().add, images[0], images[1], images[1] > 0.1)
    rows.append({"work": "metrics", **rate(add, device, count=size.batch)})
    return rows


def loaded(slices: TrainingSlices, generator: torch.Generator, count: int, device: torch.device) -> object:
    return slices.draw(generator, count).on(device)


def rate(work: Callable[[], object], device: torch.device, *, count: int) -> Row:
    seconds = median([timed(work, device) for _ in range(6)][1:])  # the first one warms up
    return {"slices/s": count / seconds}
