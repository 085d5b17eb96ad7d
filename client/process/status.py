"""`state_dir/status.json`: what the runner is doing, for the terminal of the same machine. It never leaves the site."""

import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agi_core import protocol
from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.run.progress import News, Refused, Step

NAME = "status.json"
EVERY_S = 1.0
WAITING = "waiting"
_WORDS = {
    protocol.VALIDATION: "validating",
    **dict.fromkeys((protocol.TEST, protocol.ALL), "testing"),
    protocol.BLEND: "testing a blend",
    protocol.ALONE: "training alone",
    protocol.REGRESSIONS: "testing regressions",
    protocol.STATISTICS: "telling statistics",
    protocol.POSES: "measuring poses",
    **dict.fromkeys((protocol.ERROR, protocol.ERROR_STATISTICS, protocol.ERROR_COUNTS), "measuring errors"),
    protocol.DISAGREEMENT: "comparing models",
    protocol.RANGE: "measuring its known range",
    protocol.LAST_LAYER: "telling its last layer",
    protocol.LAYER_STATISTICS: "telling statistics",
    protocol.KEYS: "making a key",
}
log = logging.getLogger("client")


def doing(subjects: str, *, trains: bool) -> str:
    """What a request makes the site do; `subjects` is its scalar, which the models of a blend may follow."""
    word = _WORDS.get(subjects) or _WORDS.get(subjects.split(" ")[0])
    return word or ("training" if trains else "evaluating")


@dataclass(frozen=True, kw_only=True)
class Status:
    """`state` is WAITING, or in words what the runner does: `step` of `steps` done in `phase`, `seconds_left` in it.
    `metrics` are those of the last answer. `refused` says why the last request was refused; None: it was not."""

    pid: int
    state: str = WAITING
    run: str | None = None
    round: int | None = None
    phase: str | None = None
    step: int | None = None
    steps: int | None = None
    seconds_left: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    refused: str | None = None


class StatusFile:
    """Keeps the file up to date: changes of state at once, steps at most once a second."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / NAME
        self._status = Status(pid=os.getpid())
        self._written_s = 0.0
        self._phase_began = (0.0, 0)  # when, and at which step
        self._write(self._status)

    def working(self, state: str, *, run: str | None, round: int | None) -> None:
        """A request came."""
        self._write(Status(pid=os.getpid(), state=state, run=run, round=round, metrics=self._status.metrics))

    def waiting(self, metrics: Mapping[str, float]) -> None:
        """The request was answered. An answer without metrics leaves the last metrics in the file."""
        last = self._status
        self._write(
            Status(pid=last.pid, run=last.run, round=last.round, metrics=metrics or last.metrics, refused=last.refused)
        )

    def on_progress(self, news: News) -> None:
        """Listener of `agi_core.run.progress`."""
        if isinstance(news, Refused):
            self._write(dataclasses.replace(self._status, refused=news.cause))
        if not isinstance(news, Step):
            return
        now, last = time.monotonic(), self._status
        if news.phase != last.phase or news.step < (last.step or 0):
            self._phase_began = now, news.step
        began, first = self._phase_began
        done = news.step - first
        left = round((now - began) / done * (news.steps - news.step), 1) if done else None
        self._status = dataclasses.replace(last, phase=news.phase, step=news.step, steps=news.steps, seconds_left=left)
        if now - self._written_s >= EVERY_S:
            self._write(self._status)

    def remove(self) -> None:
        """Take the file away: the runner has ended."""
        self.path.unlink(missing_ok=True)

    def _write(self, status: Status) -> None:
        self._status, self._written_s = status, time.monotonic()
        try:
            atomic.write_json(self.path, dataclasses.asdict(status))
        except RunError as error:  # a full disk must not stop the work
            log.warning("%s", error)
