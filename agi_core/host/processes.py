"""Processes that end with this one, even those that start sessions of their own as Flower's do. Linux only."""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_LIBC = ctypes.CDLL(None)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that `end_descendants` finds it."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """In a new child: the kernel kills this process when its parent ends, however the parent ends and whatever hangs
    here."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)


def end_descendants(*, within_s: float) -> None:
    """SIGTERM to every descendant of this process; after `within_s` SIGKILL to those that are left."""
    for process in descendants():
        _send(process, signal.SIGTERM)
    deadline = time.monotonic() + within_s
    while left := descendants():
        if time.monotonic() > deadline:
            for process in left:
                _send(process, signal.SIGKILL)
        _reap()
        time.sleep(0.05)


def descendants() -> list[int]:
    """Ids of the children of this process and all below them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[1]
                children.setdefault(int(parent), []).append(int(entry.name))
    found = list(children.get(os.getpid(), []))
    for process in found:  # grows while it is walked
        found += children.get(process, [])
    return found


def has_ended(process: int) -> bool:
    """Whether a process is gone, or there only until its parent takes note."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return True


def _send(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _reap() -> None:
    """Collect children that have ended; until then they count as alive."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
