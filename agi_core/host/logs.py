"""Logs that one program appends to and another one keeps short."""

import os
import shutil
from pathlib import Path

from agi_core.host import atomic

LOG_BYTES = 10 * 2**20  # of one log; the part before it is kept as NAME.1


def begin_anew(path: Path) -> None:
    """Keep what is in the log as NAME.1, and empty it: its program appends, so it goes on in the emptied file.

    Raises:
        RunError: NAME.1 cannot be written, or the disk is full; log and NAME.1 are as before.
        OSError: the log cannot be emptied.
    """
    with atomic.replacing(path.with_name(f"{path.name}.1")) as temporary_path:
        shutil.copyfile(path, temporary_path)
    os.truncate(path, 0)
