"""Logs that one program appends to and another one keeps short."""

import os
import shutil
from pathlib import Path

LOG_BYTES = 10 * 2**20  # of one log; the part before it is kept as NAME.1


def begin_anew(path: Path) -> None:
    """Keep what is in the log as NAME.1, and empty it: its program appends, so it goes on in the emptied file. Raises
    OSError."""
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)
