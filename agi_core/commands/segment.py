"""`python -m agi_core segment`: a segmentation network, for `evaluate --segmenter`."""

import argparse
import sys

from rich.progress import Progress

from agi_core.host import atomic
from agi_core.host.device import open_device
from agi_core.report.markup import plural
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

        segmenter, visits, notes = train_segmenter(arguments.train.resolve(), settings, on_step=show)
    segmenter.write(arguments.out)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    told = f"{plural(len(visits), 'visit')}, {plural(settings.steps, 'step')}"
    print(f"segmentation network {segmenter.hash} in {arguments.out}: {told}")
    print("use it: python -m agi_core evaluate --segmenter", arguments.out, "--help")
