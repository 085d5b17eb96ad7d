"""The state of a run after a round: what a checkpoint holds and how it is read back."""

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from agi_core.cells import name_of
from agi_core.errors import RunError
from agi_core.host import lock
from agi_core.protocol import Weights
from agi_core.run import checkpoint
from agi_core.run.checkpoint import TRAINED_LAYER, WEIGHTS
from agi_core.run.event_log import EventLog
from agi_core.run.events import ModelValidated
from agi_core.run.scores import Best
from server.server_step import Velocity

FORMAT = 2
VELOCITY = "velocity/"
LOCK = ".lock"
PATIENCE_S = 1.0


def new_run_id(run_dir: Path) -> str:
    """What the sites call the run in status, ledger and audit: its name, and what tells it from others of that name."""
    return f"{name_of(run_dir)[:40]}-{uuid.uuid4().hex[:12]}"


@dataclass
class RunState:
    """What a resumed run needs, besides the finished rounds: these are in the events. `best` is the best of them by
    validation, and `sitting_out` is {site: why} of those that are not expected to answer. Strikes lie elsewhere: they
    outlive the run. `trained_layer` are the weights of the last layer that training ended with, where a solved one has
    taken its place."""

    weights: Weights
    run_id: str
    round: int = 0
    velocity: Velocity = field(default_factory=dict)
    trained_layer: Weights = field(default_factory=dict)
    best: Best | None = None
    tested: bool = False
    sitting_out: dict[str, str] = field(default_factory=dict)

    def expected(self, sites: Iterable[str]) -> list[str]:
        """Those of `sites` that do not sit out."""
        return [site for site in sites if site not in self.sitting_out]

    def consider_best(self, validated: ModelValidated, *, of: int) -> None:
        """Remember this model if its median validation PSNR is above that of the best so far, at the sites that report
        both. These must be a majority of all `of` training sites, or nothing changes: one site alone decides nothing,
        and who drops out moves no median. A best one of too few of today's sites is forgotten: with it, nothing could
        ever be compared."""
        if self.best and len(self.best.sites) <= of / 2:
            self.best = None
        told = {site: score.psnr_db for site, score in validated.sites.items()}
        best = self.best.sites if self.best else {}
        both = [site for site in told if site in best or self.best is None]
        if len(both) <= of / 2:
            return
        if not best or median(told[site] for site in both) > median(best[site] for site in both):
            self.best = Best(validated.round, median(told.values()), told)


def save(run_dir: Path, state: RunState, events: EventLog) -> None:
    """Commit the state; events written so far belong to it."""
    arrays = {WEIGHTS + name: array for name, array in state.weights.items()} | {
        VELOCITY + n: a for n, a in state.velocity.items()
    }
    arrays |= {TRAINED_LAYER + name: array for name, array in state.trained_layer.items()}
    keep = state.best.round if state.best else None
    checkpoint.save_checkpoint(run_dir, round=state.round, arrays=arrays, state=_json(state, events), keep=keep)


def load(run_dir: Path) -> tuple[RunState, EventLog] | None:
    """The newest whole state and the event log cut back to it; None when the run has not finished its first checkpoint.

    Raises:
        RunError: the checkpoint is of another format.
    """
    loaded = checkpoint.load_last(run_dir)
    if loaded is None:
        return None
    round, arrays, values = loaded
    if values.get("format") != FORMAT:
        raise RunError(
            f"the checkpoints of {run_dir} have format {values.get('format')}, this program reads {FORMAT};"
            " use the release that wrote them"
        )
    state = RunState(
        weights={n.removeprefix(WEIGHTS): a for n, a in arrays.items() if n.startswith(WEIGHTS)},
        velocity={n.removeprefix(VELOCITY): a.astype(np.float64) for n, a in arrays.items() if n.startswith(VELOCITY)},
        trained_layer={n.removeprefix(TRAINED_LAYER): a for n, a in arrays.items() if n.startswith(TRAINED_LAYER)},
        round=round,
        best=Best.from_json(values["best"]) if values["best"] else None,
        **{name: values[name] for name in ("run_id", "tested", "sitting_out")},
    )
    events = EventLog(run_dir, elapsed_s=values["elapsed_s"])
    events.cut_back(values["events_bytes"])
    return state, events


def keep_events(run_dir: Path, events: EventLog) -> None:
    """Let the events written since the newest checkpoint survive a resume, as those that say why the run paused."""
    last = checkpoint.load_last(run_dir)
    if last is not None:
        round, _, values = last
        kept = {"elapsed_s": events.elapsed_s, "events_bytes": events.size_bytes}
        checkpoint.commit_state(run_dir, round=round, state={**values, **kept})


@contextlib.contextmanager
def holding(run_dir: Path) -> Iterator[None]:
    """Be the one process that works on the run; the kernel lets go when the process ends, however it ends.

    Raises:
        RunError: another process works on it.
    """
    with (run_dir / LOCK).open("w", encoding="utf-8") as file:
        deadline = time.monotonic() + PATIENCE_S  # `is_held` takes the lock for a moment
        while not lock.take(file):
            if time.monotonic() > deadline:
                raise RunError(f"another process works on the run in {run_dir}; `python -m server status` shows it")
            time.sleep(0.05)
        yield


def is_held(run_dir: Path) -> bool:
    """Whether a process works on the run right now."""
    with (run_dir / LOCK).open("w", encoding="utf-8") as file:
        return not lock.take(file, shared=True)  # who only looks does not see another who only looks


def _json(state: RunState, events: EventLog) -> dict[str, Any]:
    plain = {name: value for name, value in vars(state).items() if name not in ("weights", "velocity", "trained_layer")}
    plain["best"] = state.best.to_json() if state.best else None
    return {"format": FORMAT, **plain, "elapsed_s": events.elapsed_s, "events_bytes": events.size_bytes}
