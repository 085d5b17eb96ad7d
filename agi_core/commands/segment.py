"""`python -m agi_core segment`: a segmentation network, for `evaluate --segmenter`."""

import argparse
import sys

from rich.progress import Progress

from agi_core.host import atomic
from agi_core.host.device import open_device
from agi_core.segmentation.segmenter import SegmenterSettings
from agi_core.segmentation.training import train_segmenter


def run(arguments: argparse.Namespace) -> None:
    """Train it on real scans, and write it."""
    atomic.check_file(arguments.out, suffix=".safetensors")
    open_device("cpu", threads=arguments.threads)
    settings = SegmenterSettings(steps=arguments.steps, seed=arguments.seed)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as live:
        bar = live.add_task("reading scans", total=None)

        def show(done: int, total: int, loss: float) -> None:
            live.update(bar, description=f"loss {loss:.3f}", completed=done, total=total)

        segmenter, visits = train_segmenter(arguments.train.resolve(), settings, on_step=show)
    segmenter.write(arguments.out)
    print(f"segmentation network {segmenter.hash} in {arguments.out}: {len(visits)} visits, {settings.steps} steps")
    print("use it: python -m agi_core evaluate --segmenter", arguments.out, "--help")
