"""The weights of the replies to one exchange, on disk: memory holds one parameter of one site at a time.

The file has no name. So it is gone as soon as no reply is in use any more, however the process ends.
"""

import contextlib
import errno
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from agi_core.errors import RunError
from agi_core.protocol import Packed, Reply

Place = tuple[np.dtype[Any], tuple[int, ...], int]  # dtype, shape, first byte


class Spool:
    """A file for so many replies as come."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with self._disk():
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def keep(self, reply: Reply) -> Reply:
        """The same reply, whose arrays are read from disk whenever they are asked for.

        Raises:
            RunError: the disk is full.
        """
        if reply.weights is None:
            return reply
        places: dict[str, Place] = {}
        for dtype, array in reply.weights.arrays.items():
            content = np.ascontiguousarray(array).tobytes()
            with self._disk():
                places[dtype] = (array.dtype, array.shape, self._file.seek(0, 2))
                try:
                    while content:
                        content = content[self._file.write(content) :]
                except OSError:
                    self._file.truncate(0)  # the exchange ends; the run needs room to note why
                    raise
        return replace(reply, weights=Packed(_SpooledArrays(self, places), reply.weights.manifest))

    def read(self, place: Place) -> NDArray[Any]:
        """An array, mapped into memory anew; it leaves memory with the last view of it."""
        dtype, shape, start_bytes = place
        if 0 in shape or not dtype.itemsize:  # nothing can be mapped; a hostile dtype (V0) has no bytes either
            return np.empty(shape, dtype)
        return np.memmap(self._file, dtype, mode="r", offset=start_bytes, shape=shape)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "The disk is full. Free some space there" if full else error.strerror or str(error)
            raise RunError(f"the sites' replies cannot be kept in {self._folder}: {why}") from None


class _SpooledArrays(Mapping[str, NDArray[Any]]):
    """{dtype: flat array}. They keep the spool, and so its file."""

    def __init__(self, spool: Spool, places: Mapping[str, Place]) -> None:
        self._spool, self._places = spool, places

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._spool.read(self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
