"""`events.jsonl`: one JSON object per line, {"at": date and time in UTC, "t_s": seconds of the run, "event": kind, and
the event's fields}."""

import datetime
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.run import progress
from agi_core.run.events import KINDS, Event
from agi_core.run.json_objects import Json

E = TypeVar("E", bound=Event)
T = TypeVar("T")


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

    @classmethod
    def going_on(cls, run_dir: Path) -> Self:
        """The log of a run that begins, or goes on with all that it has noted: its seconds count from the last event's.

        Raises:
            RunError: a line is damaged; not a last one that a crash cut short, which is forgotten.
        """
        log = cls(run_dir)
        if not log.path.is_file():
            return log
        before = read_events(run_dir)
        log.cut_back(log.path.read_bytes().rfind(b"\n") + 1)
        return cls(run_dir, elapsed_s=before[-1].t_s if before else 0.0)

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
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {"at": now, "t_s": round(self.elapsed_s, 3), "event": event.kind, **event.to_json()}
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
    return _read_lines(path, lambda line: LoggedEvent(line["t_s"], KINDS.get(line["event"], Event).from_json(line)))


def read_times(run_dir: Path) -> list[datetime.datetime | None]:
    """When each event of `read_events` happened, in UTC; None where a release before 0.2.0 has written it.

    Raises:
        RunError: as `read_events`.
    """
    return _read_lines(
        run_dir / "events.jsonl", lambda line: datetime.datetime.fromisoformat(line["at"]) if "at" in line else None
    )


def _read_lines(path: Path, read: Callable[[Json], T]) -> list[T]:
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            lines.append(read(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path} is damaged in line {number} ({error}); restore it from a backup") from None
    return lines
