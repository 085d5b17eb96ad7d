"""`state_dir/audit.jsonl`: one row per message that leaves the site, on the disk before it does.

The rows are a chain of hashes (`agi_core.host.hash_chain`), so no row can be changed, added or left out unseen. Only
somebody who wrote down the last hash can see that rows are missing at the end. A row holds what the coordinator was
told anyway, and the names of the figures that it was not told. It holds no path and no subject.

`read` verifies all rows. So does a process before its first row, and whenever anybody else wrote to the file since its
last one. In between it knows what it needs of them, so that a row costs as much after a year as on the first day.
"""

import bisect
import dataclasses
import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.host.hash_chain import seal, unseal
from agi_core.protocol import POSES, STATISTICS

OF_NO_MODEL = (STATISTICS, POSES)  # they count as figures too, and are the same whatever model came
NAME, TIME_FORMAT = "audit.jsonl", "%Y-%m-%dT%H:%M:%S%z"
Stamp = tuple[int, ...]


class Decision(StrEnum):
    """What the site made of a request."""

    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One message that left. `action` is what the request asked for, `request` its digest, and `model` the hash of the
    weights that it brought ("" in a refusal). `left` holds the figures that left, and of arrays that count as figures
    how many numbers they have; `held_back` the names of those that did not, and `reason` the public sentence of a
    refusal."""

    run: str
    round: int
    action: str
    decision: Decision
    request: str = ""
    model: str = ""
    left: Mapping[str, float] = field(default_factory=dict)
    held_back: Sequence[str] = ()
    weights_bytes: int = 0
    weights_sha256: str = ""
    reason: str = ""
    time: str = field(default_factory=lambda: time.strftime(TIME_FORMAT))

    @property
    def time_s(self) -> float:
        """`time` in seconds since 1970."""
        return datetime.strptime(self.time, TIME_FORMAT).timestamp()


@dataclass
class Told:
    """The answers with figures: which requests they are to, how many are of each model, and the time of each, sorted.
    One that left again counts once."""

    requests: set[str] = field(default_factory=set)
    of_model: Counter[str] = field(default_factory=Counter)
    times_s: list[float] = field(default_factory=list)

    def add(self, row: AuditRow) -> None:
        """Count the row, if figures left."""
        figures = {*row.left} - {"num_examples", "steps"}
        if row.request in self.requests or not figures:
            return
        self.requests.add(row.request)
        self.of_model[row.model] += not figures <= {*OF_NO_MODEL}
        bisect.insort(self.times_s, row.time_s)

    def since(self, time_s: float) -> int:
        """How many left after that time."""
        return len(self.times_s) - bisect.bisect_right(self.times_s, time_s)


@dataclass
class _Verified:
    """What this process knows of the rows: the file's stamp after them, their number, the last hash, and the figures
    that were told."""

    stamp: Stamp = ()
    count: int = 0
    head: str = ""
    told: Told = field(default_factory=Told)


_known: dict[Path, _Verified] = {}


def append(state_dir: Path, row: AuditRow) -> None:
    """Add the row, and return when it is on the disk.

    Raises:
        RunError: the file is damaged, or cannot be written.
    """
    path = state_dir / NAME
    with _locked(path):
        known = _verified(path)
        line = seal(dataclasses.asdict(row), n=known.count, previous=known.head)
        atomic.append_line(path, line)
        now = time.time_ns()
        os.utime(path, ns=(now, now))  # the kernel's own time stands still for milliseconds, and could hide a change
        known.told.add(row)
        known.stamp, known.count, known.head = _stamp(path), known.count + 1, json.loads(line)["hash"]


def told(state_dir: Path) -> Told:
    """The answers with figures so far; not to be changed.

    Raises:
        RunError: a row is damaged, or the file cannot be read.
    """
    path = state_dir / NAME
    with _locked(path):
        return _verified(path).told


def read(state_dir: Path) -> list[AuditRow]:
    """All rows, verified from the first on.

    Raises:
        RunError: a row is damaged; the error says which.
    """
    path = state_dir / NAME
    with _locked(path):
        return _read(path)[0]


def table(rows: Sequence[AuditRow]) -> Iterator[str]:
    """The rows for a person, a line each, and what was decided how often."""
    for number, row in enumerate(rows, start=1):
        told = [f"{name}={value:g}" for name, value in row.left.items()]
        told += [f"weights {row.weights_bytes:,} bytes, sha256 {row.weights_sha256[:12]}"] if row.weights_bytes else []
        told += [f"held back: {', '.join(row.held_back)}"] if row.held_back else []
        what = row.reason or "; ".join(told)
        yield f"{number:>5}  {row.time}  {row.run:.32}  round {row.round:<4} {row.action:<20} {row.decision:<9} {what}"
    decisions = Counter(row.decision for row in rows)
    yield f"{len(rows)} messages left: " + ", ".join(f"{decisions[decision]} {decision}" for decision in Decision)
    for reason, count in Counter(row.reason for row in rows if row.decision == Decision.REFUSED).most_common():
        yield f"{count:>5}  refused: {reason}"


def _verified(path: Path) -> _Verified:
    """What is known of the rows; they are read again only after anybody else wrote to the file."""
    known = _known.get(path, _Verified())
    if known.stamp != _stamp(path):
        rows, head = _read(path)
        known = _Verified(_stamp(path), len(rows), head)
        for row in rows:
            known.told.add(row)
    _known[path] = known
    return known


def _stamp(path: Path) -> Stamp:
    """Changes with every write."""
    status = path.stat() if path.exists() else None
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns) if status else ()


def _read(path: Path) -> tuple[list[AuditRow], str]:
    """All rows, and the hash of the last one ("" without rows). A last line that a crash left without its end is cut
    off: `append` never returned for it."""
    content = path.read_bytes() if path.exists() else b""
    whole, newline, torn = content.rpartition(b"\n")
    rows: list[AuditRow] = []
    head = ""
    for line in whole.split(b"\n") if newline else []:
        try:
            record = unseal(line, n=len(rows), previous=head)
            head = record.pop("hash")
            rows.append(AuditRow(**{name: value for name, value in record.items() if name not in ("n", "previous")}))
        except (ValueError, TypeError):
            raise RunError(
                f"{path}: row {len(rows) + 1} is damaged, or not the one that was written there; nothing leaves the"
                " site while it is: find out who changed it, keep the file elsewhere, and a new one will be begun"
            ) from None
    if torn:
        os.truncate(path, len(content) - len(torn))
    return rows, head


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock within the block: runner and worker write one after the other."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); check state_dir and its permissions") from None
