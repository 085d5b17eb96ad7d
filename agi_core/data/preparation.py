"""Preparation: how scans become the entries of the cache, once.

Opening, resampling and scaling a scan takes seconds, so its result is kept on disk (`cached_session`). An entry's file
name is a hash of the settings and of its scans' fingerprints, so two scans never share an entry, wherever they are. The
times of modification are part of it too, for edits that a fingerprint does not see.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from agi_core.config.schema import Task
from agi_core.data.cached_session import CachedSession, open_entry, write_entry
from agi_core.data.fingerprint import fingerprint
from agi_core.data.header import Grid
from agi_core.data.nifti import read_grid
from agi_core.data.preprocess import prepare_session, respaced
from agi_core.data.scans import Scans, Session, Subject
from agi_core.errors import DataError
from agi_core.host import atomic
from agi_core.scenario import Scenario, parse_scenario

MOST_AT_ONCE = 4  # sessions; each is in memory as a whole
CACHE_VERSION = 4
"""Raised whenever the same scans and settings give other arrays."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How scans become cache entries, and where these are kept.

    Attributes:
        scenario: the modalities of an entry, sources then target.
        spacing_mm: of the working grid, along right, anterior, superior; None keeps each target's grid.
        register_to: the source that every other source is registered to first; None: no registration.
        whole: whole slices (evaluation), or the head box alone (training).
        cache_dir: where the entries live, `train` and `whole` apart; made when missing.
        threads: sessions that are prepared at a time, at most MOST_AT_ONCE.
        most_bytes: the largest predicted size of new entries; None = what the disk holds.
    """

    scenario: Scenario
    spacing_mm: tuple[float, float, float] | None
    register_to: str | None
    whole: bool
    cache_dir: Path
    threads: int = 1
    most_bytes: int | None = None

    @classmethod
    def of(
        cls, task: Task, scans: Scans, *, cache_dir: Path, whole: bool, threads: int = 1, most_bytes: int | None = None
    ) -> Self:
        """The preparation that a task needs of these scans."""
        scenario = parse_scenario(task.scenario)
        return cls(
            scenario=scenario,
            spacing_mm=task.spacing_mm,
            register_to=scenario.reference(task.reference) if scans.register == "rigid" else None,
            whole=whole,
            cache_dir=cache_dir,
            threads=threads,
            most_bytes=most_bytes,
        )

    def open(
        self, subjects: Iterable[Subject], *, on_session: Callable[[int, int], None] | None = None
    ) -> list[CachedSession]:
        """Prepare every session that is not in the cache yet, and open all, in the order of `subjects` and their
        sessions. The first session in this order that fails is the one that is told, however many threads there are.

        Args:
            on_session: called with (done, total) after each session, in this order.

        Raises:
            DataError: a scan is unusable, or the predicted size exceeds the free disk or `most_bytes` (then nothing is
                written).
            RunError: `cache_dir` cannot be written.
        """
        found = self._look_up(subjects, fingerprint)
        if missing := [session for _, session, _, entry in found if entry is None]:
            atomic.remove_stale(self._entries_dir)
            _check_disk([(self, missing)], read_grid)
        entries = []
        # In threads, because nearly all of the work is done by numpy, scipy and zlib, outside of Python's lock. A
        # working process of a site may have no children.
        pool = ThreadPoolExecutor(min(self.threads, MOST_AT_ONCE), thread_name_prefix="preparation")
        try:
            made = [
                known or pool.submit(self._make_entry, path, session, subject_id=subject_id)
                for subject_id, session, path, known in found
            ]
            for done, (entry, (_, _, path, _)) in enumerate(zip(made, found, strict=True), start=1):
                entries.append(entry.result() if isinstance(entry, Future) else entry)
                with contextlib.suppress(OSError):  # another process may have dropped it, or the cache is read only
                    os.utime(path)  # it was used now; see `agi_core.data.cache_quota`
                if on_session is not None:
                    on_session(done, len(found))
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure or Ctrl-C, those that have begun end
        return entries

    def _look_up(
        self, subjects: Iterable[Subject], fingerprint: Callable[[Path], str]
    ) -> list[tuple[str, Session, Path, CachedSession | None]]:
        """(subject id, session, path of its entry, the entry if it is there) of every session."""
        found = []
        for subject in subjects:
            for session in subject.sessions:
                path = self._path(session, fingerprint)
                found.append((subject.id, session, path, open_entry(path, subject_id=subject.id)))
        return found

    def _make_entry(self, path: Path, session: Session, *, subject_id: str) -> CachedSession:
        try:
            prepared = prepare_session(
                session,
                scenario=self.scenario,
                spacing_mm=self.spacing_mm,
                subject_id=subject_id,
                register_to=self.register_to,
            )
        except DataError as error:
            raise DataError(f"{error} (To go on without this subject: data.exclude=[{subject_id}])") from error
        write_entry(path, prepared, session=session.name, whole=self.whole)
        entry = open_entry(path, subject_id=subject_id)
        if entry is None:
            raise DataError(f"The cache entry {path} vanished or broke while it was read. Start again.")
        return entry

    def _path(self, session: Session, fingerprint: Callable[[Path], str]) -> Path:
        """The entry's file: its name is a hash of everything that it depends on."""
        inputs = []
        for modality in self.scenario.modalities:
            path = session.paths.get(modality)
            if path is None or not path.is_file():
                raise DataError(f"{path or modality} is missing in session {session.name or '(only one)'}.")
            inputs.append([modality, fingerprint(path), path.stat().st_mtime_ns])
        settings: dict[str, Any] = {
            "version": CACHE_VERSION,
            "session": session.name,
            "spacing_mm": self.spacing_mm,
            "whole": self.whole,
        }
        if self.register_to is not None:
            settings["register_to"] = self.register_to
        key = hashlib.sha256(json.dumps([inputs, settings], sort_keys=True).encode()).hexdigest()[:32]
        return self._entries_dir / f"{key}.safetensors"

    @property
    def _entries_dir(self) -> Path:
        return self.cache_dir / ("whole" if self.whole else "train")


def check_disk(
    needed: Iterable[tuple[Preparation, Iterable[Subject]]],
    *,
    fingerprint: Callable[[Path], str] = fingerprint,
    read_grid: Callable[[Path], Grid] = read_grid,
) -> None:
    """Refuse, before anything is written, several `Preparation.open` calls that together need more than the free disk.

    Args:
        fingerprint, read_grid: look at a scan's file; whoever has read the scans before knows the answers.

    Raises:
        DataError: the predicted size of all missing entries exceeds the free disk.
    """
    missing = []
    for preparation, subjects in needed:
        found = preparation._look_up(subjects, fingerprint)
        missing.append((preparation, [session for _, session, _, entry in found if entry is None]))
    _check_disk(missing, read_grid)


def _check_disk(missing: Iterable[tuple[Preparation, Iterable[Session]]], read_grid: Callable[[Path], Grid]) -> None:
    """Compare the size predicted from the targets' headers with the free disk. The head box is not known yet, so the
    prediction is an upper bound."""
    predicted_bytes: dict[Path, int] = {}
    for preparation, sessions in missing:
        needed_bytes = 0
        for session in sessions:
            grid = read_grid(session.paths[preparation.scenario.target])
            if preparation.spacing_mm is not None:
                grid = respaced(grid, preparation.spacing_mm)
            modalities = len(preparation.scenario.modalities)
            size_bytes = math.prod(grid.shape) * (2 * modalities + 1) + 2**16
            needed_bytes += size_bytes
        if preparation.most_bytes is not None and needed_bytes > preparation.most_bytes:
            raise DataError(
                f"The task's scans need up to {needed_bytes / 1e9:.1f} GB in the cache {preparation.cache_dir}, and its"
                f" quota leaves {preparation.most_bytes / 1e9:.1f} GB. Raise cache_gb in the site file, or refuse the"
                " grid there (policy.settings: grid.spacing_mm)."
            )
        predicted_bytes[preparation.cache_dir] = predicted_bytes.get(preparation.cache_dir, 0) + needed_bytes
    for cache_dir, size_bytes in predicted_bytes.items():
        folders = (cache_dir.absolute(), *cache_dir.absolute().parents)
        existing_dir = next(folder for folder in folders if folder.is_dir())
        free_bytes = shutil.disk_usage(existing_dir).free
        if size_bytes > free_bytes:
            raise DataError(
                f"The cache needs {size_bytes / 1e9:.1f} GB, but {free_bytes / 1e9:.1f} GB are free at {cache_dir}. "
                "Free some space, or set data.cache_dir to a larger disk."
            )
