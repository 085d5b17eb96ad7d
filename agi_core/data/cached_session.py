"""A prepared session on disk: one safetensors file, read slice by slice, or patch by patch. It holds

    volumes     float16 (D, M, H, W)   axial slices, sources then target, in [0, 1]
    foreground  bool    (D, H, W)      the head

and, as JSON in its metadata, the working grid and what is odd about the voxels. Training entries are cropped to the
head box; whole entries, for evaluation, drop nothing. Files appear complete (rename), so two processes may build one
cache at once. Everything in it is patient data, in a folder that stays at the site.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import save

from agi_core.data.header import Doubt, Grid
from agi_core.data.intensity import BoolArray
from agi_core.data.preprocess import Prepared, head_box
from agi_core.data.slabs import SliceBox, source_box
from agi_core.errors import DataError
from agi_core.host import atomic
from agi_core.host.tensor_file import open_tensors

Float16Array = npt.NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class CachedSession:
    """One prepared session on disk. Holds neither its voxels nor an open file.

    Attributes:
        subject_id, session: whose scan it is; known only at the site.
        path: the cache file.
        shape: (D, M, H, W) of the stored volumes; the last modality is the target.
        grid: the whole working grid, in (I, J, K) = (W, H, D) order.
        foreground_fraction: float32 (D,), share of the head box's in-plane area that is head, per stored slice.
        source_box: rows and columns of the stored slices that hold non-zero source voxels.
        doubts: (modality, doubt) for what is odd about the scans' voxels.
        images: fingerprint of each modality's scan, as it was read.
    """

    subject_id: str
    session: str
    path: Path
    shape: tuple[int, int, int, int]
    grid: Grid
    foreground_fraction: npt.NDArray[np.float32]
    source_box: SliceBox
    doubts: tuple[tuple[str, Doubt], ...]
    images: Mapping[str, str]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing along right (W), anterior (H), superior (D)."""
        return self.grid.spacing_mm

    def read_slice(self, k: int) -> tuple[Float16Array, BoolArray]:
        """Slice `k`: float16 (M, H, W) in [0, 1], and the foreground, bool (H, W).

        The file is open for the moment of the copy, so neither memory nor open files grow with the subjects.
        """
        with self._opened() as file:
            return file.get_slice("volumes")[k], file.get_slice("foreground")[k]

    def read_foreground(self, k: int) -> BoolArray:
        """The foreground of slice `k`, bool (H, W); nothing else is read."""
        with self._opened() as file:
            foreground: BoolArray = file.get_slice("foreground")[k]
            return foreground

    def read_block(self, d: slice, h: slice, w: slice) -> Float16Array:
        """The volumes in a box of slices, rows and columns: float16 (D, M, H, W) in [0, 1]; nothing else is read."""
        with self._opened() as file:
            block: Float16Array = file.get_slice("volumes")[d, :, h, w]
            return block

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with open_tensors(self.path) as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise DataError(f"{self.path} cannot be read ({error}). Start again: the cache is then rebuilt.") from error


def open_entry(path: Path, *, subject_id: str) -> CachedSession | None:
    """Open a cache file; None if it is absent, broken, or of another release."""
    try:
        with open_tensors(path) as file:
            entry = json.loads(file.metadata()["entry"])
            depth, modalities, height, width = file.get_slice("volumes").get_shape()
        return CachedSession(
            subject_id=subject_id,
            session=entry["session"],
            path=path,
            shape=(depth, modalities, height, width),
            grid=Grid(tuple(entry["grid_shape"]), np.array(entry["grid_affine"], dtype=np.float64)),
            foreground_fraction=np.array(entry["foreground_fraction"], dtype=np.float32),
            source_box=(slice(*entry["source_box"][0]), slice(*entry["source_box"][1])),
            doubts=tuple((modality, Doubt(cause, found)) for modality, cause, found in entry["doubts"]),
            images=entry["images"],
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def write_entry(path: Path, prepared: Prepared, *, session: str, whole: bool) -> None:
    """Write a prepared session: whole slices, or its head box alone. Raises RunError where `path` cannot be written."""
    d, h, w = head_box(prepared.foreground)
    fraction = prepared.foreground[:, h, w].mean(axis=(1, 2))
    if whole:
        d, h, w = (slice(0, n) for n in prepared.foreground.shape)
    volumes = np.ascontiguousarray(prepared.volumes[d, :, h, w], dtype=np.float16)
    entry: dict[str, Any] = {
        "session": session,
        "grid_shape": prepared.grid.shape,
        "grid_affine": prepared.grid.affine.tolist(),
        "foreground_fraction": fraction[d].tolist(),
        "source_box": [[side.start, side.stop] for side in source_box(volumes[:, :-1])],
        "doubts": [[modality, doubt.cause, doubt.found] for modality, doubt in prepared.doubts],
        "images": prepared.images,
    }
    tensors: dict[str, npt.NDArray[Any]] = {
        "volumes": volumes,
        "foreground": np.ascontiguousarray(prepared.foreground[d, h, w]),
    }
    atomic.write_bytes(path, save(tensors, metadata={"entry": json.dumps(entry)}))
