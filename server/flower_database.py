"""What Flower's own commands cannot do to its database."""

import contextlib
import sqlite3
from pathlib import Path

from agi_core.errors import RunError


def free_keys(path: Path) -> None:
    """Let the keys of nodes that were shut out be registered again.

    Flower keeps the row of such a node, and its key with it, and then refuses that key for ever as in use. The row
    stays without its key; the node stays shut out, because Flower finds a node by its key.

    Raises:
        RunError: the database cannot be written.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as database, database:
            database.execute("UPDATE node SET public_key = NULL WHERE status = 'unregistered'")
    except sqlite3.Error as error:
        raise RunError(f"{path} cannot be written ({error}); is the coordinator up, and the disk not full?") from None
