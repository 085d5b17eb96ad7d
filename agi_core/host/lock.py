"""Lock files: one process at a time does what a lock file stands for. The kernel lets go when the process ends, however
it ends; the file stays."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from agi_core.errors import RunError


def take(file: IO[str], *, shared: bool = False) -> bool:
    """Hold the lock of an open file until it is closed; False where somebody else holds it. `shared`: beside others who
    hold it so."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock file at `path` within the block, after whoever holds it now. A folder that is not there is not
    made: it is misspelt, and holds nothing that two could change.

    Raises:
        RunError: the file cannot be written.
    """
    if not path.parent.is_dir():
        yield
        return
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); check its folder's permissions") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
