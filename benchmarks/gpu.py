"""What the project does on a GPU, by one command of at most 6 minutes, without a network connection.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --device cpu --toy

Five parts: are the results those of a CPU; what does a training step cost; how fast are data and metrics; one volume of
256x256x150; a federation of five clients. `OUT/gpu.json` holds all figures and `OUT/gpu.md` the tables. A part that the
time does not allow is named there, not begun. Training steps are those of `agi_core.training`, their copy to the device
included. On a CPU there are no launches and no peak memory, and the synchronisations are those that a GPU would have.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from agi_core.config.schema import GridConfig, PrivacyConfig, Task, TrainingConfig
from agi_core.data.datasets import Batch, Draw, TrainingSlices
from agi_core.host.device import open_device
from agi_core.metrics import SubjectScore
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.prediction import autocast, predict_volume
from agi_core.privacy.noise import system_noise
from agi_core.privacy.patient_sgd import Mechanism
from agi_core.run.summary import read_summary
from agi_core.training import train_round, train_round_privately
from benchmarks.counted import counted
from benchmarks.data_wait import open_entries, write_entries
from benchmarks.results import commit

LIMIT_S = 360.0
SOURCES, SLICES_OF_SUBJECT = 2, 4
EQUAL_OUTPUT, EQUAL_LOSS = 1e-3, 1e-2
"""Bounds in float32: of the largest difference of an output, and of a loss of any step over the first loss."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    widths: tuple[int, ...]
    batch: int
    pixels: int
    patch: tuple[int, int, int]  # rows, columns, slices
    steps: int  # timed
    equal_steps: int
    volume: tuple[int, int, int]  # slices, rows, columns
    matrix: int  # of the product that shows the device's peak
    federation: tuple[str, ...]


SIZES = {
    "full": Size((64, 128, 256, 512), 16, 256, (96, 96, 32), 10, 20, (150, 256, 256), 8192, ("--rounds", "2")),
    "toy": Size(
        *((4, 8), 4, 32, (16, 16, 8), 1, 1, (2, 32, 32), 128),
        federation=("--rounds", "1", "model.widths=[4]", "training.local_steps=1", "grid.crop=[32,32]"),
    ),
}


def variants(widths: tuple[int, ...]) -> dict[str, ModelConfig]:
    """Every kind of network, by what it shows of the options."""
    plain, cagr = ModelConfig(conv="plain", widths=widths), ModelConfig(widths=widths)
    return {
        "plain": plain,
        "plain, prior": ModelConfig(conv="plain", widths=widths, prior="cubic"),
        "plain, stem and adapters": ModelConfig(conv="plain", widths=widths, stem=4, adapters=4),
        "global": ModelConfig(conv="plain", widths=widths, alignment="global"),
        "affine": ModelConfig(conv="plain", widths=widths, alignment="affine"),
        "dense": ModelConfig(conv="plain", widths=widths, alignment="dense"),
        "dense, neighbours": ModelConfig(conv="plain", widths=widths, alignment="dense", neighbours=1),
        "cagr": cagr,
        "cagr, attention": ModelConfig(widths=widths, rolling=False),
        "cagr, rolling, open": ModelConfig(widths=widths, attention=False, shift="open"),
        "cagr, fourier, pooled": ModelConfig(widths=widths, interpolation="fourier", routing_pool=2),
        "default": ModelConfig(widths=widths, alignment="dense", neighbours=1),
        "plain, 3-D": ModelConfig(conv="plain", widths=widths, dims=3),
        "default, 3-D": ModelConfig(widths=widths, dims=3, alignment="dense"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="auto", help="default: a GPU where there is one")
    parser.add_argument("--toy", action="store_true", help="sizes that a CPU can do: whether it works, and no figures")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results (%(default)s)")
    options = parser.parse_args(arguments)
    device, size = open_device(options.device, threads=1), SIZES["toy" if options.toy else "full"]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 is to be float32
    until = time.monotonic() + LIMIT_S

    report: Row = {"device": name_of(device), "torch": torch.__version__, "commit": commit(), "toy": options.toy}
    print(f"# {report['device']}, torch {report['torch']}, commit {report['commit']}\n", flush=True)
    tables = []
    for part in options.parts:
        started = time.monotonic()
        rows = PARTS[part](device, size, until)
        report[part] = {"seconds": time.monotonic() - started, "rows": rows}
        tables.append(table(part, rows))
        print(tables[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.out / "gpu.md").write_text("\n".join([f"# {report['device']}, commit {report['commit']}\n", *tables]))
    return 0 if all(row.get("equal", True) for row in report.get("equality", {"rows": []})["rows"]) else 1


# ARE THE RESULTS THOSE OF A CPU


def equality(device: torch.device, size: Size, until: float) -> list[Row]:
    """Each network on the CPU in float32, and on the device in float32 and as it is trained there."""
    rows: list[Row] = []
    for name, config in variants(size.widths[:3]).items():
        if time.monotonic() > until:
            return [*rows, out_of_time(name)]
        space = [16] * 3 if config.dims == 3 else [min(size.pixels, 64)] * 2
        batch = random_batch(config, count=2, space=space)
        output, losses = trained(config, batch, torch.device("cpu"), size)
        row: Row = {"network": name}
        for precision in ("float32", "bfloat16") if device.type == "cuda" else ("float32",):
            its_output, its_losses = trained(config, batch, device, size, mixed=precision != "float32")
            row[f"output, {precision}"] = float((its_output - output).abs().max())
            row[f"loss, {precision}"] = max(abs(a - b) for a, b in zip(its_losses, losses, strict=True)) / losses[0]
        equal = row["output, float32"] <= EQUAL_OUTPUT and row["loss, float32"] <= EQUAL_LOSS
        rows.append({**row, "equal": equal})
    return rows


def trained(
    config: ModelConfig, batch: Batch, device: torch.device, size: Size, *, mixed: bool = False
) -> tuple[Tensor, list[float]]:
    """The output before training, and the losses of each step. `mixed`: in the precision of `agi_core.training`."""
    model = build_model(config, sources=SOURCES).to(device)
    if config.prior != "none" or config.adapters:
        torch.manual_seed(0)
        with torch.no_grad():  # what starts at zero would hide the rest
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape).to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sources, target = batch.on(device)
    output, losses = torch.empty(0), list[float]()
    for _ in range(size.equal_steps):
        with autocast(device if mixed else torch.device("cpu")):
            prediction = model(sources)
        output = output if losses else prediction.detach().float().cpu()
        loss = F.l1_loss(prediction.float(), target)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return output, losses


# WHAT A STEP COSTS


def steps(device: torch.device, size: Size, until: float) -> list[Row]:
    """A training step of each kind, as `agi_core.training` takes it."""
    peak_flops, peak_bytes = peaks(device, size)
    configs = variants(size.widths)
    kinds = {"plain": "plain", "aligned": "dense", "cagr": "cagr", "default": "default", "private": "plain"}
    rows: list[Row] = []
    for kind, name in {**kinds, "3-D": "plain, 3-D"}.items():
        if time.monotonic() > until:
            return [*rows, out_of_time(kind)]
        config = configs[name]
        rows_columns = (size.pixels, size.pixels)
        crop = size.patch if config.dims == 3 else rows_columns
        count = max(1, size.batch // 4) if config.dims == 3 else size.batch
        batch = random_batch(config, count=count, space=[*crop[2:], *crop[:2]])
        if kind == "private":
            work = partial(private, config, batch, crop, device)
        else:
            work = partial(plain, config, partial(the_same, batch), count, crop, device)
        rows.append({"step": kind, **cost(work, device, count=count, size=size, peaks=(peak_flops, peak_bytes))})
    return rows


def plain(
    config: ModelConfig, draw: Draw, batch_size: int, crop: tuple[int, ...], device: torch.device
) -> Callable[[int], object]:
    """A function that takes so many steps without privacy."""
    model = build_model(config, sources=SOURCES).to(device)

    def work(local_steps: int) -> object:
        training = TrainingConfig(local_steps=local_steps, batch_size=batch_size)
        task = Task("T1,T2:PD", model=config, training=training, grid=GridConfig(crop=crop))
        return train_round(model, draw, task=task, site="A", round=1)

    return work


def the_same(batch: Batch, generator: torch.Generator, count: int) -> Batch:
    return batch


def private(config: ModelConfig, batch: Batch, crop: tuple[int, ...], device: torch.device) -> Callable[[int], object]:
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
    make: Callable[[], Callable[[int], object]],
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


# THE REST


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


def synthesis(device: torch.device, size: Size, until: float) -> list[Row]:
    """A whole volume through networks of the default widths, eight slices at a time, as `synthesize` does."""
    sources = torch.rand(size.volume[0], SOURCES, *size.volume[1:])
    box = slice(0, size.volume[1]), slice(0, size.volume[2])
    rows: list[Row] = []
    for name, config in variants(ModelConfig.widths).items():
        if name in ("plain", "default"):
            network = Network(Task("T1,T2:PD", model=config), device=device)
            predict = partial(predict_volume, network, box=box, batch_size=8)
            predict(sources[:8])
            rows.append({"network": name, "s": timed(partial(predict, sources), device)})
    return rows


def federation(device: torch.device, size: Size, until: float) -> list[Row]:
    """Five clients of the built-in data on one device, as `simulations/run.py` runs them."""
    left_s = until - time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        where = ["--out", f"{folder}/run", f"data.cache_dir={folder}/cache", f"device={device}"]
        command = [sys.executable, "simulations/run.py", "--clients", "5", "reference=T2", *size.federation, *where]
        started = time.monotonic()
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=max(left_s, 1))
        except subprocess.TimeoutExpired:
            return [out_of_time("federation")]
        if ended.returncode:
            return [{"federation": "failed", "why": (ended.stderr or ended.stdout)[-500:]}]
        summary = read_summary(Path(folder, "run"))
    assert summary is not None
    took = {"s": time.monotonic() - started, "s of rounds": summary.wall_s}
    return [{"federation": "5 clients", **took, "PSNR dB": summary.scores.final["psnr_db"]}]


PARTS: dict[str, Callable[[torch.device, Size, float], list[Row]]] = {
    "equality": equality,
    "steps": steps,
    "throughput": throughput,
    "synthesis": synthesis,
    "federation": federation,
}


def random_batch(config: ModelConfig, *, count: int, space: Sequence[int]) -> Batch:
    """Smooth random sources, and their mean as the target: a network can learn it. As `TrainingSlices` draws them."""
    generator = torch.Generator().manual_seed(0)
    slab = [2 * config.neighbours + 1] if config.neighbours else []
    coarse = torch.rand(count, SOURCES, *[max(1, length // 8) for length in space], generator=generator)
    smooth = F.interpolate(coarse, size=[*space], mode="trilinear" if config.dims == 3 else "bilinear")
    images = torch.cat([smooth, smooth.mean(1, keepdim=True)], dim=1).half()
    if slab:
        images = images[:, :, None].expand(-1, -1, *slab, *space).contiguous()
    return Batch(images, config.neighbours)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds, what was queued on a GPU included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def out_of_time(name: str) -> Row:
    return {"not measured": f"{name}: the {LIMIT_S:.0f} s were over"}


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"


def table(part: str, rows: Sequence[Row]) -> str:
    """The rows as Markdown, one column per name."""
    names = [*dict.fromkeys(name for row in rows for name in row)]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(cell(row.get(name)) for name in names)} |" for row in rows]
    return "\n".join([f"## {part}", "", *lines, ""])


def cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
