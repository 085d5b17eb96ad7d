"""The site's privacy ledger: what has been spent on whom, kept for the life of the data.

An append-only file of JSON lines, each with its number, the hash of the line before and its own. Kinds of lines:

    opened     the ledger's identity, the site, a fingerprint of the key of the subject hashes
    subjects   a data set: keyed hashes (HMAC-SHA-256) of all that its subjects are known by, their names and images
    reserved   planned steps on a data set, for one request; this line is on the disk before the first step is taken
    committed  the steps were taken and their result may leave; this line is on the disk before the result leaves
    tested     a run gets figures of one model without noise; such answers are counted, for the life of the data

A reservation counts for good, whatever becomes of its steps. That steps failed, or took too long, is known outside of
the site, and may tell of the subjects that were drawn. So a crash over-counts and never under-counts. (Earlier releases
wrote lines `released`; these steps count too, and knew subjects by name alone.) A data set that shares a name or an
image with another inherits all that was spent on the other, directly or through a third.

The length and the last hash are kept a second time, outside of the ledger's folder. Private training stops if the
ledger is damaged, if it is shorter than that copy says (a restored backup, a second folder, a truncation), or if it has
another hash at that length. Nothing here repairs or replaces a ledger. One thing alone is removed: the beginning of a
last line that a crash cut short, of which nobody was ever told that it was written. The ledger does not protect against
somebody who deletes both ledger and copy, or sets both back.
"""

import contextlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from agi_core.errors import BudgetError, BusyError, PolicyError, PrivacyError, RunError
from agi_core.host import atomic
from agi_core.host.hash_chain import Record, seal, sha256, unseal
from agi_core.host.lock import take
from agi_core.privacy.accounting import Steps, epsilon

FORMAT = 1
KEY_BYTES = 32
BUSY_S, POLL_S = 10.0, 0.1  # another program looks at the ledger for a moment; a round of training lasts longer


@dataclass(frozen=True)
class Budget:
    """At most `epsilon` at `delta`. A site's budget is for everything that was ever spent on the subjects; a run's
    budget is for its own steps."""

    epsilon: float
    delta: float


@dataclass(frozen=True)
class Reservation:
    """Steps for one request. `request` is its digest; `reply` is the digest of the stored reply, once committed."""

    id: str
    dataset: str
    run: str
    round: int
    request: str
    steps: Steps
    status: Literal["reserved", "committed"] = "reserved"
    reply: str = ""


@contextlib.contextmanager
def open_ledger(path: Path, *, head_path: Path, site: str) -> Iterator["Ledger"]:
    """Open the ledger at `path` for this process alone, verified from its first line on. It is made if there is none.
    Whoever holds it now is waited for, for some seconds.

    Args:
        head_path: the copy of length and last hash, in another folder than the ledger.

    Raises:
        BusyError: another process goes on holding it.
        PrivacyError: it belongs to another site, or it is not all that was written there.
        RunError: a file cannot be read or written.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _take(stack.enter_context(path.with_suffix(".lock").open("w", encoding="utf-8")), path)
            ledger = Ledger(path, head_path=head_path, site=site)
        except OSError as error:
            raise RunError(
                f"privacy ledger {error.filename or path}: {error.strerror}; keep it, and mend its permissions or its"
                " disk"
            ) from None
        yield ledger


def _take(lock: IO[str], path: Path) -> None:
    deadline_s = time.monotonic() + BUSY_S
    while not take(lock):
        if time.monotonic() >= deadline_s:
            raise BusyError(
                f"{path} is in use by another process; two must not spend one budget: wait for it, or stop it"
            )
        time.sleep(POLL_S)


class Ledger:
    """What `open_ledger` yields. It must not be used after that block."""

    def __init__(self, path: Path, *, head_path: Path, site: str) -> None:
        self._path, self._head_path, self._key_path = path, head_path, path.with_suffix(".key")
        self._length, self._head = 0, ""
        self.identity = ""
        """What no other ledger has."""
        self._datasets: dict[str, frozenset[str]] = {}
        self._reservations: dict[str, Reservation] = {}
        self._tests: dict[str, str] = {}  # run -> digest of its request
        if not path.exists():
            self._create(site)
        self._key, content = self._read_key(), path.read_bytes()
        whole, newline, torn = content.rpartition(b"\n")
        hashes = [self._verify(line) for line in (whole.split(b"\n") if newline else [])]
        self._check_header(whole.split(b"\n")[0], site)
        self._check_head(hashes)
        if torn:
            with path.open("r+b") as file:
                file.truncate(len(content) - len(torn))
                os.fsync(file.fileno())
        self._keep_head()

    def find(self, run: str, round: int) -> list[Reservation]:
        """The reservations of this round of this run, oldest first."""
        return [r for r in self._reservations.values() if (r.run, r.round) == (run, round)]

    def spent(self, subjects: Collection[str]) -> list[Steps]:
        """All steps that count for a data set whose subjects are known by these names and images; see the module for
        what it inherits."""
        related = set(self._hashes(subjects))
        counted: set[str] = set()
        while joined := {d for d, members in self._datasets.items() if d not in counted and members & related}:
            counted |= joined
            related.update(*(self._datasets[dataset] for dataset in joined))
        return [r.steps for r in self._reservations.values() if r.dataset in counted]

    def spent_by(self, run: str) -> list[Steps]:
        """All steps that count for one run."""
        return [r.steps for r in self._reservations.values() if r.run == run]

    def check(
        self,
        subjects: Collection[str],
        planned: Steps,
        *,
        run: str,
        round: int,
        budget: Budget,
        run_budget: Budget | None = None,
    ) -> None:
        """Raise as `reserve` would; nothing is written."""
        self._check_budget(self.spent(subjects), planned, budget, f"round {round}", "of the site")
        if run_budget is not None:
            self._check_budget(self.spent_by(run), planned, run_budget, f"round {round}", "of the run")

    def reserve(
        self,
        subjects: Collection[str],
        planned: Steps,
        *,
        run: str,
        round: int,
        request: str,
        budget: Budget,
        run_budget: Budget | None = None,
    ) -> Reservation:
        """Write down that the planned steps are taken on these subjects, before the first step is taken.

        Args:
            subjects: all names and images that the subjects are known by.
            budget: the site's, for everything that was ever spent on the subjects.
            run_budget: the run's own, for its own steps.

        Raises:
            BudgetError: spent and planned steps together exceed a budget; nothing is written.
            PrivacyError: the planned steps have no guarantee at all.
        """
        self.check(subjects, planned, run=run, round=round, budget=budget, run_budget=run_budget)
        hashes = self._hashes(subjects)
        dataset = sha256(" ".join(hashes))[:16]
        if dataset not in self._datasets:
            self._append("subjects", dataset=dataset, hashes=hashes)
        own = secrets.token_hex(8)
        self._append("reserved", id=own, dataset=dataset, run=run, round=round, request=request, steps=[*planned])
        return self._reservations[own]

    def commit(self, reservation: Reservation, *, reply: str) -> None:
        """Write down that the steps were taken, before the result leaves. `reply` is the digest of the stored reply.

        Raises:
            PrivacyError: the reservation was committed before.
        """
        if self._reservations[reservation.id].status == "committed":
            raise PrivacyError(f"{self._path}: reservation {reservation.id} is committed and stays so")
        self._append("committed", id=reservation.id, reply=reply)

    def allow_test(self, *, run: str, request: str, most: int) -> None:
        """Write down that this request of the run gets figures without noise, before they are made. Asked again, the
        same request is allowed and not counted.

        Raises:
            PolicyError: the run did not train here, or had figures of another model.
            BudgetError: `most` runs had such figures.
        """
        if not self.spent_by(run):
            raise PolicyError(f"privacy: run {run!r} has not trained here, so it gets no test")
        if self._tests.get(run, request) != request:
            raise PolicyError(f"privacy: run {run!r} has had its test, of another model")
        if run not in self._tests:
            if len(self._tests) >= most:
                raise BudgetError(f"{self._path}: {len(self._tests)} runs had a test, and privacy.max_tests={most}")
            self._append("tested", run=run, request=request)

    def _check_budget(self, spent: list[Steps], planned: Steps, budget: Budget, what: str, whose: str) -> None:
        total = epsilon([*spent, planned], delta=budget.delta)
        if not total <= budget.epsilon:
            raise BudgetError(
                f"{self._path}: {what} would bring epsilon from {epsilon(spent, delta=budget.delta):.3f} to"
                f" {total:.3f}, above the budget of {budget.epsilon:g} at delta {budget.delta:g} {whose}; the subjects"
                " can only be used further with a larger budget"
            )

    def _hashes(self, subjects: Collection[str]) -> list[str]:
        return sorted({hmac.new(self._key, subject.encode(), "sha256").hexdigest()[:32] for subject in subjects})

    def _append(self, kind: str, **fields: Any) -> None:
        line = seal({"kind": kind, **fields}, n=self._length, previous=self._head)
        atomic.append_line(self._path, line)
        self._verify(line.encode())
        self._keep_head()

    def _verify(self, line: bytes) -> str:
        """Take in the next line and return its hash. PrivacyError: it is not the next line of this ledger."""
        try:
            record = unseal(line, n=self._length, previous=self._head)
            self._apply(record)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._stop(f"line {self._length + 1} is damaged, or not the one that was written there") from None
        self._length, self._head = self._length + 1, str(record["hash"])
        return self._head

    def _apply(self, record: Record) -> None:
        match record["kind"]:
            case "opened":
                if self._length:
                    raise ValueError
                self.identity = str(record["ledger"])
            case "subjects":
                self._datasets[record["dataset"]] = frozenset(record["hashes"])
            case "reserved":
                names = ("id", "dataset", "run", "round", "request")
                fields = {name: record[name] for name in names}
                self._reservations[record["id"]] = Reservation(**fields, steps=Steps(*record["steps"]))
            case "committed":
                reservation = self._reservations[record["id"]]
                self._reservations[record["id"]] = replace(reservation, status="committed", reply=record["reply"])
            case "tested":
                self._tests[record["run"]] = record["request"]
            case "released":
                self._reservations[record["id"]]
            case _:
                raise ValueError

    def _create(self, site: str) -> None:
        if self._head_path.exists():
            raise self._stop("it is missing, while its copy in the second place is there")
        if not self._key_path.exists():
            with atomic.replacing(self._key_path) as temporary_path:
                temporary_path.touch(mode=0o600)
                temporary_path.write_bytes(secrets.token_bytes(KEY_BYTES))
        opened = {"kind": "opened", "format": FORMAT, "ledger": secrets.token_hex(8), "site": site}
        atomic.write_text(self._path, seal({**opened, "key": sha256(self._read_key())}, n=0, previous="") + "\n")

    def _read_key(self) -> bytes:
        try:
            return self._key_path.read_bytes()
        except FileNotFoundError:
            raise self._stop(f"{self._key_path.name}, the key of its subject hashes, is missing") from None

    def _check_header(self, line: bytes, site: str) -> None:
        header = json.loads(line) if line else {}
        if (header.get("kind"), header.get("format")) != ("opened", FORMAT):
            raise self._stop("it does not begin as a ledger of this program does")
        if header["site"] != site:
            raise self._stop(f"it is the ledger of site {header['site']}, not of {site}")
        if header["key"] != sha256(self._key):
            raise self._stop(f"{self._key_path.name} is not the key of its subject hashes")

    def _check_head(self, hashes: list[str]) -> None:
        """PrivacyError unless the copy in the second place lies on this chain: at its end, or behind by one crash."""
        try:
            length, head = (value := json.loads(self._head_path.read_bytes()))["length"], value["head"]
        except FileNotFoundError:
            if len(hashes) == 1:  # a crash came after the ledger was made and before its copy; nothing was spent
                return
            raise self._stop("its copy in the second place is missing") from None
        except (OSError, ValueError, KeyError, TypeError):
            raise self._stop("its copy in the second place cannot be read") from None
        if not isinstance(length, int) or not 1 <= length <= len(hashes):
            raise self._stop(
                f"it has {len(hashes)} lines where {length} were written: it was cut, restored from a backup, or is"
                " used in a second folder"
            )
        if hashes[length - 1] != head:
            raise self._stop("it is not the ledger, or not the history, whose copy is in the second place")

    def _keep_head(self) -> None:
        atomic.write_json(self._head_path, {"length": self._length, "head": self._head})

    def _stop(self, cause: str) -> PrivacyError:
        return PrivacyError(
            f"privacy ledger {self._path} (copy: {self._head_path}): {cause}; private training stops, because what was"
            " spent is no longer certain: put back the newest of both as they were, or use subjects never trained on"
        )
