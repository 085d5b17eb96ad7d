"""`events.jsonl`: one JSON object per line, {"t_s": seconds of the run, "event": kind, and the event's fields}."""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple, TypeVar

from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.run import progress
from agi_core.run.events import KINDS, Event

E = TypeVar("E", bound=Event)


class LoggedEvent(NamedTuple):
    """An event, and when it happened in seconds of the run."""

    t_s: float
    event: Event


class EventLog:
    """Appends to `events.jsonl`, each line flushed to disk. `t_s` counts the run's own seconds, interruptions left
    out."""

    def __init__(self, run_dir: Path, *, elapsed_s: float = 0.0) -> None:
        self.path = run_dir / "events.jsonl"
        self._start = time.monotonic() - elapsed_s

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, event: Event) -> None:
        """Write the event, and tell it to the listeners of this process.

        Raises:
            RunError: the file cannot be written.
        """
        record = {"t_s": round(self.elapsed_s, 3), "event": event.kind, **event.to_json()}
        atomic.append_line(self.path, json.dumps(record, allow_nan=False))
        progress.report(event)

    def cut_back(self, size_bytes: int) -> None:
        """Forget everything after the first `size_bytes` bytes: the events of an interrupted round."""
        if self.size_bytes > size_bytes:
            with self.path.open("r+b") as file:
                file.truncate(size_bytes)
                os.fsync(file.fileno())


def events_of(run_dir: Path, kind: type[E]) -> list[E]:
    """All events of one kind, in order. Raises RunError as `read_events` does."""
    return [event for _, event in read_events(run_dir) if isinstance(event, kind)]


def read_events(run_dir: Path) -> list[LoggedEvent]:
    """All events of a run, in order; a last line that a crash cut short is left out.

    Raises:
        RunError: there is no such file, or one of its lines is damaged.
    """
    path = run_dir / "events.jsonl"
    if not path.is_file():
        raise RunError(f"{path} does not exist; is {run_dir} the folder of a run?")
    events = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            values = json.loads(line)
            events.append(LoggedEvent(values["t_s"], KINDS.get(values["event"], Event).from_json(values)))
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path} is damaged in line {number} ({error}); restore it from a backup") from None
    return events
