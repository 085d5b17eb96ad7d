"""Three faults that cannot be had by a signal or a full disk. Python runs this file at its start where PYTHONPATH names
its folder; a fault happens when the file of its name stands in the folder `FAULTS`."""

import datetime
import os
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["FAULTS"])
OUT_OF_MEMORY, FORBIDDEN_FIELD, CLOCK_AHEAD = (
    FOLDER / name for name in ("out-of-memory", "forbidden-field", "clock-ahead")
)
AHEAD_S = 60.0


def _run_out_of_memory_once() -> None:
    """At a hospital: the next training step finds no memory on its GPU, as torch says it."""
    import torch

    step = torch.optim.AdamW.step

    def failing(*arguments: object, **more: object) -> object:
        if OUT_OF_MEMORY.exists():
            OUT_OF_MEMORY.unlink()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return step(*arguments, **more)

    torch.optim.AdamW.step = failing


def _ask_for_more() -> None:
    """At the coordinator: a program that asks for what the protocol does not have."""
    from server import messages

    scalars = messages.request_scalars
    messages.request_scalars = lambda request: {**scalars(request), "subject_ids": "all"}


def _set_the_clock_ahead() -> None:
    """At a hospital: the clock that Flower's node signs with, and the one that `--check` compares."""
    from flwr.supercore import date

    clock = time.time
    time.time = lambda: clock() + AHEAD_S
    date.now = lambda: datetime.datetime.fromtimestamp(clock() + AHEAD_S, datetime.UTC)


if CLOCK_AHEAD.exists():
    _set_the_clock_ahead()
elif "--multiprocessing-fork" in sys.orig_argv:
    _run_out_of_memory_once()
elif any(Path(word).name == "flwr-serverapp" for word in sys.orig_argv) and FORBIDDEN_FIELD.exists():
    _ask_for_more()
