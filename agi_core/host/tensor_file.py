"""Safetensors files: mapped into memory, or read where the file system refuses to map, as some network drives do."""

import json
import math
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load


def open_tensors(path: Path) -> Any:
    """What `safetensors.safe_open` gives, for a `with` block: `metadata`, `keys`, `get_tensor`, and `get_slice`, which
    is read only as far as it is indexed.

    Raises:
        OSError: the file cannot be opened or read.
        SafetensorError: it is damaged.
    """
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError:
        raise
    except OSError:
        return _UnmappedFile(path)


def tensors_in(content: bytes) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """Metadata and arrays of a whole file. Raises SafetensorError or ValueError where it is damaged."""
    arrays = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header.get("__metadata__", {}), arrays


class _UnmappedFile:
    """The same without mapping."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            try:
                header = json.loads(file.read(min(length, path.stat().st_size)))
                self._metadata: dict[str, str] = header.pop("__metadata__", {})
                self._slices = {name: _UnmappedSlice(path, 8 + length, **entry) for name, entry in header.items()}
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise SafetensorError(f"Error while deserializing header: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def metadata(self) -> dict[str, str]:
        return self._metadata

    def keys(self) -> list[str]:
        return list(self._slices)

    def get_slice(self, name: str) -> "_UnmappedSlice":
        return self._slices[name]

    def get_tensor(self, name: str) -> npt.NDArray[Any]:
        return self._slices[name][:]


class _UnmappedSlice:
    """One array on disk. The first index decides what is read; the others are applied in memory."""

    def __init__(
        self, path: Path, start_bytes: int, *, dtype: str, shape: list[int], data_offsets: tuple[int, int]
    ) -> None:
        self._path, self._start_bytes, self._shape = path, start_bytes + data_offsets[0], shape
        self._dtype = np.dtype("?" if dtype == "BOOL" else f"{dtype[0].lower()}{int(dtype[1:]) // 8}")  # "F16", "I64"

    def get_shape(self) -> list[int]:
        return self._shape

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        first, *others = index if isinstance(index, tuple) else (index,)
        rows = np.arange(self._shape[0])[first]
        start, count = (int(rows.min()), int(np.ptp(rows)) + 1) if rows.size else (0, 0)
        row_size = math.prod(self._shape[1:])
        values = np.fromfile(
            self._path,
            self._dtype,
            count * row_size,
            offset=self._start_bytes + start * row_size * self._dtype.itemsize,
        )
        if values.size != count * row_size:
            raise SafetensorError("Error while reading: the file is shorter than its header says")
        block: npt.NDArray[Any] = values.reshape(count, *self._shape[1:])[rows - start]
        return block[(*(slice(None) for _ in rows.shape), *others)]
