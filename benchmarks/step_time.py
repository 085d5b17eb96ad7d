"""Time and memory of a training step: AGI-Net and group alignment against a plain ResUNet of the same widths. Needs
torch alone.

    python -m benchmarks.step_time
    python -m benchmarks.step_time --device cuda --widths 64,128,256,512 --size 256

The models take turns step by step, so that what else the machine does falls on all alike; a ratio is the median over
the turns of (step of this model / step of the plain one). Peak memory is that of each model alone: on a GPU what torch
allocated; on a CPU how far a fresh process grew above what it held before the model. On a GPU: bf16 autocast and
channels-last input.
"""

import argparse
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from statistics import median

import torch

from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig

SOURCES = 2
WARM_UP = 3


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    shape = (args.batch, SOURCES, *[args.size] * args.dims)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} thread(s)"
    print(f"{where}, torch {torch.__version__}, input {shape}, {args.steps} turns")
    print(f"{'widths':>16} {'model':>22} {'ms per step':>12} {'ratio':>6} {'samples/s':>10} {'peak memory':>12}")

    for widths in args.widths or [(16, 32, 64), (64, 128, 256)]:
        configs = {
            "plain": ModelConfig(conv="plain", dims=args.dims, widths=widths),
            "cagr": ModelConfig(dims=args.dims, widths=widths),
            "cagr, routing_pool=4": ModelConfig(dims=args.dims, widths=widths, routing_pool=4),
            "global": ModelConfig(conv="plain", dims=args.dims, widths=widths, alignment="global"),
            "affine": ModelConfig(conv="plain", dims=args.dims, widths=widths, alignment="affine"),
            "dense": ModelConfig(conv="plain", dims=args.dims, widths=widths, alignment="dense"),
        }
        if args.dims == 2:
            thick = ModelConfig(conv="plain", widths=widths, alignment="affine", neighbours=1)
            configs |= {"affine, neighbours=1": thick, "the same, stem=8": replace(thick, stem=8)}
            configs["dense, neighbours=1"] = replace(thick, alignment="dense")
        memory = {name: peak_memory(config, shape, args.device) for name, config in configs.items()}
        steps = {name: training_step(config, shape, args.device) for name, config in configs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(WARM_UP + args.steps):
            for name, step in steps.items():
                duration = timed(step, args.device)
                if turn >= WARM_UP:
                    seconds[name].append(duration)

        for name, durations in seconds.items():
            ratio = median(own / plain for own, plain in zip(durations, seconds["plain"], strict=True))
            step_s = median(durations)
            print(
                f"{'-'.join(map(str, widths)):>16} {name:>22} {1000 * step_s:12.1f} {ratio:6.2f} "
                f"{args.batch / step_s:10.1f} {memory[name]:>12}",
                flush=True,
            )


def training_step(config: ModelConfig, shape: tuple[int, ...], device: str) -> Callable[[], None]:
    """A function that runs one step: forward, L1, backward, Adam."""
    model = build_model(config, sources=SOURCES).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    slab = [2 * config.neighbours + 1] if config.neighbours else []
    sources = torch.rand([*shape[:2], *slab, *shape[2:]], generator=generator).to(device)
    target = torch.rand(shape[0], 1, *shape[2:], generator=generator).to(device)
    if device == "cuda" and not slab:
        formats = {2: torch.channels_last, 3: torch.channels_last_3d}
        sources = sources.contiguous(memory_format=formats[config.dims])

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = (model(sources) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def timed(step: Callable[[], None], device: str) -> float:
    """Seconds of one step, what it queued on a GPU included."""
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(config: ModelConfig, shape: tuple[int, ...], device: str) -> str:
    """Peak of two steps of a model that is alone: weights, optimiser state, activations and workspace."""
    if device != "cuda":
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return f"{pool.submit(growth, config, shape).result() / 2**20:.0f} MiB"
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step = training_step(config, shape, device)
    step()
    step()
    return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f} MiB"


def growth(config: ModelConfig, shape: tuple[int, ...]) -> int:
    """Bytes by which this process grows at most over two steps, after one of a small batch has loaded the libraries."""
    torch.set_num_threads(1)
    training_step(config, (1, *shape[1:2], *[32] * config.dims), "cpu")()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = training_step(config, shape, "cpu")
    step()
    step()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--widths",
        action="append",
        type=lambda text: tuple(map(int, text.split(","))),
        help="channels at each scale, e.g. 16,32,64; may be repeated (default: 16,32,64 and 64,128,256)",
    )
    parser.add_argument("--size", type=int, default=128, help="pixels along each axis (default: 128)")
    parser.add_argument("--batch", type=int, default=8, help="samples per step (default: 8)")
    parser.add_argument("--dims", type=int, choices=(2, 3), default=2, help="slices or volumes (default: 2)")
    parser.add_argument("--steps", type=int, default=10, help="timed turns (default: 10)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
