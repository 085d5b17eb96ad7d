"""What the project does on a GPU, by one command of at most 6 minutes, without a network connection.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --device cpu --toy

Six parts: are the results those of a CPU, and the same again; what does a training step cost; how fast are data and
metrics; one volume of 256x256x150; a federation of five clients; what do the options `deterministic` and `compile` do.
`OUT/gpu.json` holds all figures and `OUT/gpu.md` the tables. A part that the time or a missing package does not allow
is named there, not begun: equality and synthesis need no package but torch. Training steps are those of
`agi_core.training`, their copy to the device included. On a CPU there are no launches and no peak memory, and the
synchronisations are those that a GPU would have.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from agi_core.config.schema import Task
from agi_core.host.device import open_device
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.prediction import autocast, predict_volume
from agi_core.run.summary import read_summary
from benchmarks.commit import commit
from benchmarks.gpu_sizes import (
    SIZES,
    SOURCES,
    Row,
    Size,
    deterministic,
    out_of_time,
    random_images,
    timed,
    variants,
)

LIMIT_S = 360.0
EQUAL_OUTPUT, EQUAL_LOSS = 1e-3, 1e-2
"""Bounds in float32: of the largest difference of an output, and of a loss of any step over the first loss."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="auto", help="default: a GPU where there is one")
    parser.add_argument("--toy", action="store_true", help="sizes that a CPU can do: whether it works, and no figures")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results (%(default)s)")
    options = parser.parse_args(arguments)
    device = open_device(options.device, threads=1, deterministic=True)  # cuBLAS reads once what that needs
    torch.use_deterministic_algorithms(False)
    size = SIZES["toy" if options.toy else "full"]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 is to be float32
    until = time.monotonic() + LIMIT_S

    report: Row = {"device": name_of(device), "torch": torch.__version__, "commit": commit(), "toy": options.toy}
    print(f"# {report['device']}, torch {report['torch']}, commit {report['commit']}\n", flush=True)
    tables = []
    for part in options.parts:
        started = time.monotonic()
        try:
            rows = PARTS[part](device, size, until)
        except ModuleNotFoundError as missing:
            rows = [{"not measured": f"{part}: this Python has no package {missing.name}"}]
        report[part] = {"seconds": time.monotonic() - started, "rows": rows}
        tables.append(table(part, rows))
        print(tables[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.out / "gpu.md").write_text("\n".join([f"# {report['device']}, commit {report['commit']}\n", *tables]))
    rows = report.get("equality", {"rows": []})["rows"]
    return 0 if all(row.get(claim, True) for row in rows for claim in ("equal", "repeats")) else 1


# ARE THE RESULTS THOSE OF A CPU


def equality(device: torch.device, size: Size, until: float) -> list[Row]:
    """Each network on the CPU in float32, and on the device in float32 and as it is trained there. `repeats`: with
    `deterministic=true` two trainings on the device are the same, bit for bit."""
    rows: list[Row] = []
    for name, config in variants(size.widths[:3]).items():
        if time.monotonic() > until:
            return [*rows, out_of_time(name)]
        space = [16] * 3 if config.dims == 3 else [min(size.pixels, 64)] * 2
        images = random_images(config, count=2, space=space)
        output, losses = trained(config, images, torch.device("cpu"), size)
        row: Row = {"network": name}
        for precision in ("float32", "bfloat16") if device.type == "cuda" else ("float32",):
            its_output, its_losses = trained(config, images, device, size, mixed=precision != "float32")
            row[f"output, {precision}"] = float((its_output - output).abs().max())
            row[f"loss, {precision}"] = max(abs(a - b) for a, b in zip(its_losses, losses, strict=True)) / losses[0]
        equal = row["output, float32"] <= EQUAL_OUTPUT and row["loss, float32"] <= EQUAL_LOSS
        with deterministic():
            (once, its_losses), (again, same_losses) = (trained(config, images, device, size, mixed=True) for _ in "12")
        repeats = torch.equal(once, again) and its_losses == same_losses
        rows.append({**row, "equal": equal, "repeats": repeats})
    return rows


def trained(
    config: ModelConfig, images: Tensor, device: torch.device, size: Size, *, mixed: bool = False
) -> tuple[Tensor, list[float]]:
    """The output before training, and the losses of each step. `mixed`: in the precision of `agi_core.training`."""
    model = build_model(config, sources=SOURCES).to(device)
    if config.prior != "none" or config.adapters:
        torch.manual_seed(0)
        with torch.no_grad():  # what starts at zero would hide the rest
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape).to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sources, target = (part.float().to(device) for part in (images[:, :-1], images[:, -1:]))
    target = target[:, :, config.neighbours] if config.neighbours else target  # of the middle slice
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


# WHAT TRAINING COSTS


def training(part: str, device: torch.device, size: Size, until: float) -> list[Row]:
    """A part of `benchmarks.gpu_training`, which needs more packages than torch."""
    rows: list[Row] = getattr(import_module("benchmarks.gpu_training"), part)(device, size, until)
    return rows


# THE REST


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
    "steps": partial(training, "steps"),
    "throughput": partial(training, "throughput"),
    "synthesis": synthesis,
    "federation": federation,
    "options": partial(training, "options"),
}


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
