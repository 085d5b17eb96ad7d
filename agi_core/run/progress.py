"""Live progress: whoever works reports, and whoever has a terminal listens. Nothing is printed here, and nothing leaves
the process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agi_core.run.events import Event


@dataclass(frozen=True)
class Step:
    """`step` of `steps` done in `phase` ("round 3/8", "test", "centralised") at `site`."""

    phase: str
    site: str
    step: int
    steps: int
    loss: float | None = None


@dataclass(frozen=True)
class Refused:
    """A site has refused a request. The cause is for the terminal of that site alone."""

    cause: str


News = Step | Refused | Event
Listener = Callable[[News], None]
_listeners: list[Listener] = []


def report(news: News) -> None:
    """Tell every listener of this process."""
    for listener in _listeners:
        listener(news)


def steps_of(phase: str, site: str = "") -> Callable[..., None]:
    """A callback for (step, steps), and for the loss where there is one, which reports each as a `Step`."""
    return lambda *counts: report(Step(phase, site, *counts))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Hear everything that is reported in this process within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
