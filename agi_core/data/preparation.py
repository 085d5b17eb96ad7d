"""Prepared sessions on disk: one safetensors file per session, settings and kind, read slice by slice, or
patch by patch.

Opening, resampling and scaling a scan takes seconds, so it is done once. A file holds

    volumes     float16 (D, M, H, W)   axial slices, sources then target, in [0, 1]
    foreground  bool    (D, H, W)      the head

and, as JSON in its metadata, the working grid. Training entries are cropped to the head box; whole entries, for
evaluation, drop nothing. The file name is a hash of the inputs' relative paths, sizes, modification times and of the
settings, so a changed scan is never read from an old entry. Files appear complete (rename), so two processes may build
one cache at once. Everything in it is patient data, in a folder that stays at the site.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from agi_core.data.nifti import Grid, read_grid
from agi_core.data.preprocess import BoolArray, head_box, prepare_session, respaced
from agi_core.data.scans import Session, Subject
from agi_core.errors import DataError
from agi_core.host import atomic
from agi_core.prediction import Box, source_box
from agi_core.scenario import Scenario

CACHE_VERSION = 2
"""Raised whenever the same scans and settings give other arrays."""

Float16Array = npt.NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class CachedSession:
    """One prepared session on disk. Holds neither its voxels nor an open file.

    Attributes:
        subject_id, session: whose scan it is; known only at the site.
        path: the cache file.
        shape: (D, M, H, W) of the stored volumes; the last modality is the target.
        box_start: (d, h, w) of the first stored voxel in the whole working grid; zeros in whole entries.
        grid: the whole working grid, in (I, J, K) = (W, H, D) order.
        foreground_fraction: float32 (D,), share of the head box's in-plane area that is head, per stored slice.
        source_box: rows and columns of the stored slices that hold non-zero source voxels.
    """

    subject_id: str
    session: str
    path: Path
    shape: tuple[int, int, int, int]
    box_start: tuple[int, int, int]
    grid: Grid
    foreground_fraction: npt.NDArray[np.float32]
    source_box: Box

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing along right (W), anterior (H), superior (D)."""
        return self.grid.spacing_mm

    def read_slice(self, k: int) -> tuple[Float16Array, BoolArray]:
        """Slice `k`: float16 (M, H, W) in [0, 1], and the foreground, bool (H, W).

        The file is mapped for the moment of the copy, so neither memory nor open files grow with the subjects.
        """
        with self._mapped() as file:
            return file.get_slice("volumes")[k], file.get_slice("foreground")[k]

    def read_block(self, d: slice, h: slice, w: slice) -> Float16Array:
        """The volumes in a box of slices, rows and columns: float16 (D, M, H, W) in [0, 1]; nothing else is read."""
        with self._mapped() as file:
            block: Float16Array = file.get_slice("volumes")[d, :, h, w]
            return block

    @contextmanager
    def _mapped(self) -> Iterator[Any]:
        try:
            with safe_open(self.path, framework="numpy") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise DataError(f"{self.path} cannot be read ({error}). Start again: the cache is then rebuilt.") from error


def build_cache(
    subjects: Iterable[Subject],
    *,
    scenario: Scenario,
    spacing_mm: tuple[float, float, float] | None,
    cache_dir: Path,
    data_dir: Path,
    whole: bool,
    register_to: str | None = None,
    on_session: Callable[[int, int], None] | None = None,
) -> list[CachedSession]:
    """Prepare every session that is not in the cache yet, and open all, in the order of `subjects` and their sessions.

    Args:
        spacing_mm: `grid.spacing_mm` of the config; None keeps each target's grid.
        cache_dir: where the entries live, `train` and `whole` apart; created when missing.
        data_dir: root of the data set: paths enter the key relative to it.
        whole: keep whole slices (evaluation) instead of the head box (training).
        register_to: the source that every other source is registered to first; None: no registration.
        on_session: called with (done, total) after each session.

    Raises:
        DataError: a scan is unusable, or the predicted size exceeds the free disk (then nothing is written).
        RunError: `cache_dir` cannot be written.
    """
    sessions = [(subject.id, session) for subject in subjects for session in subject.sessions]
    paths = [_path(session, scenario, spacing_mm, whole, cache_dir, data_dir, register_to) for _, session in sessions]
    opened = [open_entry(path, subject_id=subject_id) for path, (subject_id, _) in zip(paths, sessions, strict=True)]
    missing = [session for entry, (_, session) in zip(opened, sessions, strict=True) if entry is None]
    if missing:
        atomic.remove_stale(paths[0].parent)
        _check_disk(missing, scenario, spacing_mm, cache_dir)
    entries = []
    for done, (entry, path, (subject_id, session)) in enumerate(zip(opened, paths, sessions, strict=True), start=1):
        if entry is None:
            try:
                _write_entry(
                    path,
                    session,
                    scenario=scenario,
                    spacing_mm=spacing_mm,
                    whole=whole,
                    subject_id=subject_id,
                    register_to=register_to,
                )
            except DataError as error:
                raise DataError(f"{error} (To go on without this subject: data.exclude=[{subject_id}])") from error
            entry = open_entry(path, subject_id=subject_id)
        if entry is None:
            raise DataError(f"The cache entry {path} vanished or broke while it was read. Start again.")
        entries.append(entry)
        if on_session is not None:
            on_session(done, len(sessions))
    return entries


def check_disk(
    requests: Iterable[tuple[Iterable[Subject], bool]],
    *,
    scenario: Scenario,
    spacing_mm: tuple[float, float, float] | None,
    cache_dir: Path,
    data_dir: Path,
    register_to: str | None = None,
) -> None:
    """Refuse, before anything is written, several `build_cache` calls, (subjects, whole) each, that need more than the
    free disk.

    Raises:
        DataError: the predicted size of all missing entries exceeds the free disk.
    """
    missing = []
    for subjects, whole in requests:
        for subject in subjects:
            for session in subject.sessions:
                path = _path(session, scenario, spacing_mm, whole, cache_dir, data_dir, register_to)
                if open_entry(path, subject_id=subject.id) is None:
                    missing.append(session)
    _check_disk(missing, scenario, spacing_mm, cache_dir)


def open_entry(path: Path, *, subject_id: str) -> CachedSession | None:
    """Open a cache file; None if it is absent or broken."""
    try:
        with safe_open(path, framework="numpy") as file:
            entry = json.loads(file.metadata()["entry"])
            depth, modalities, height, width = file.get_slice("volumes").get_shape()
    except (OSError, SafetensorError):
        return None
    return CachedSession(
        subject_id=subject_id,
        session=entry["session"],
        path=path,
        shape=(depth, modalities, height, width),
        box_start=tuple(entry["box_start"]),
        grid=Grid(tuple(entry["grid_shape"]), np.array(entry["grid_affine"], dtype=np.float64)),
        foreground_fraction=np.array(entry["foreground_fraction"], dtype=np.float32),
        source_box=(slice(*entry["source_box"][0]), slice(*entry["source_box"][1])),
    )


def _write_entry(
    path: Path,
    session: Session,
    *,
    scenario: Scenario,
    spacing_mm: tuple[float, float, float] | None,
    whole: bool,
    subject_id: str,
    register_to: str | None,
) -> None:
    prepared = prepare_session(
        session, scenario=scenario, spacing_mm=spacing_mm, subject_id=subject_id, register_to=register_to
    )
    d, h, w = head_box(prepared.foreground)
    fraction = prepared.foreground[:, h, w].mean(axis=(1, 2))
    if whole:
        d, h, w = (slice(0, n) for n in prepared.foreground.shape)
    volumes = np.ascontiguousarray(prepared.volumes[d, :, h, w], dtype=np.float16)
    entry: dict[str, Any] = {
        "session": session.name,
        "box_start": [d.start, h.start, w.start],
        "grid_shape": prepared.grid.shape,
        "grid_affine": prepared.grid.affine.tolist(),
        "foreground_fraction": fraction[d].tolist(),
        "source_box": [[side.start, side.stop] for side in source_box(volumes[:, :-1])],
    }
    tensors: dict[str, npt.NDArray[Any]] = {
        "volumes": volumes,
        "foreground": np.ascontiguousarray(prepared.foreground[d, h, w]),
    }
    atomic.write_bytes(path, save(tensors, metadata={"entry": json.dumps(entry)}))


def _path(
    session: Session,
    scenario: Scenario,
    spacing_mm: tuple[float, float, float] | None,
    whole: bool,
    cache_dir: Path,
    data_dir: Path,
    register_to: str | None,
) -> Path:
    """The entry's file: its name is a hash of everything that it depends on."""
    inputs = []
    for modality in scenario.modalities:
        path = session.paths.get(modality)
        if path is None or not path.is_file():
            raise DataError(f"{path or modality} is missing in session {session.name or '(only one)'}.")
        status = path.stat()
        place = path.relative_to(data_dir) if path.is_relative_to(data_dir) else path.absolute()
        inputs.append([modality, place.as_posix(), status.st_size, status.st_mtime_ns])
    settings: dict[str, Any] = {"version": CACHE_VERSION, "spacing_mm": spacing_mm and list(spacing_mm), "whole": whole}
    if register_to is not None:
        settings["register_to"] = register_to
    key = hashlib.sha256(json.dumps([inputs, settings], sort_keys=True).encode()).hexdigest()[:32]
    return cache_dir / ("whole" if whole else "train") / f"{key}.safetensors"


def _check_disk(
    sessions: list[Session], scenario: Scenario, spacing_mm: tuple[float, float, float] | None, cache_dir: Path
) -> None:
    """Compare the size predicted from the targets' headers with the free disk. The head box is not known yet, so the
    prediction is an upper bound."""
    predicted_bytes = 0
    for session in sessions:
        grid = read_grid(session.paths[scenario.target])
        if spacing_mm is not None:
            grid = respaced(grid, spacing_mm)
        modalities = len(scenario.modalities)
        predicted_bytes += math.prod(grid.shape) * (2 * modalities + 1) + 2**16
    existing_dir = next(parent for parent in (cache_dir.absolute(), *cache_dir.absolute().parents) if parent.is_dir())
    free_bytes = shutil.disk_usage(existing_dir).free
    if predicted_bytes > free_bytes:
        raise DataError(
            f"The cache needs {predicted_bytes / 1e9:.1f} GB, but {free_bytes / 1e9:.1f} GB are free at {cache_dir}. "
            "Free some space, or set data.cache_dir to a larger disk."
        )
