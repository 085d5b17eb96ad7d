"""The kinds of a run's events, for asserting."""

from pathlib import Path

from agi_core.run.event_log import read_events


def kinds_of(run_dir: Path) -> list[str]:
    """The kinds of all events, in order."""
    return [event.kind for _, event in read_events(run_dir)]
