"""Keeps a site's programs alive, and ends them all. Knows nothing of Flower.

A program that ends starts again after a growing pause. A listener is told several times a second how they are. SIGTERM,
SIGHUP and Ctrl-C end everything within 10 s.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from client.process.child import Child, ChildState, Program

POLL_S = 0.2
GRACE_S = 6.0  # between the request to end and the kill

Listener = Callable[[Sequence[ChildState]], None]


def supervise(
    programs: Sequence[Program], *, state_dir: Path, environment: Mapping[str, str], listener: Listener
) -> None:
    """Run the programs until SIGTERM, SIGHUP or Ctrl-C; return when all have ended. Call it in the main thread.

    Raises:
        RunError: a program cannot be started at all, or its log cannot be written.
    """
    children = [Child(program, log_dir=state_dir / "logs", environment=environment) for program in programs]
    with _stop_request() as stop_requested:
        try:
            while not stop_requested():
                for child in children:
                    child.tend()
                listener([child.state() for child in children])
                time.sleep(POLL_S)
        finally:
            _end(children)


@contextlib.contextmanager
def _stop_request() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a signal has asked for the end."""
    asked: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, lambda received, _: asked.append(received)) for number in signals}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(children: Sequence[Child]) -> None:
    """Ask all to end; after `GRACE_S` kill what is left, with everything that they started."""
    for child in children:
        child.ask_to_end()
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and not all(child.has_ended for child in children):
        time.sleep(0.05)
    for child in children:
        child.kill()
