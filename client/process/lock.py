"""One client per site and machine: the lock of the state folder, which ends with the process, however the process ends.
And one user: whom the folder belongs to."""

import contextlib
import fcntl
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from agi_core.errors import RunError

NAME = "client.lock"


def other_owner(state_dir: Path) -> str | None:
    """The user to whom the folder belongs, where that is not the one of this process; else None. A folder that is not
    there yet belongs to nobody."""
    try:
        owner = state_dir.stat().st_uid
    except PermissionError:  # a folder above it is closed, and its owner's
        return other_owner(state_dir.parent)
    except OSError:
        return None
    return None if owner == os.geteuid() else user_name(owner)


def user_name(uid: int) -> str:
    """The user's name, or number where there is no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@contextlib.contextmanager
def only_client(state_dir: Path) -> Iterator[None]:
    """Hold the lock within the block.

    Raises:
        RunError: another client holds it, or the folder cannot be written.
    """
    path = state_dir / NAME
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; check state_dir in the site file and its permissions") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = path.read_text(encoding="utf-8").strip() or "unknown"
            raise RunError(
                f"a client of this site is already running as process {pid} (it holds {path});"
                f" stop it first: Ctrl-C in its terminal, or kill {pid}"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def client_runs(state_dir: Path) -> bool:
    """Whether a client holds the lock."""
    try:
        with (state_dir / NAME).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False
