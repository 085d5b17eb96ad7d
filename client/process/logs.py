"""Two logs of a deployed site.

The first is what the programs print, and what systemd or the supervisor keeps. It may be read by more people than the
scans, and sent to other machines. Therefore it has our own lines alone. In a warning or an error, an exception becomes
its public sentence, a number stays as it is, and every other argument becomes an ellipsis.

The second is `state_dir/logs/details.log`, for the user that runs the site. It has everything in full, with paths,
subjects and tracebacks.
"""

import contextlib
import copy
import logging
import os
import sys
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path

from agi_core.errors import AgiError, ConfigError

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
DETAILS_NAME = "details.log"
DETAILS_BYTES = 10 * 2**20  # of one file; the part before it is kept as details.log.1
NOT_WRITTEN = f"{DETAILS_NAME} cannot be written, so a line of it is lost; check the disk of state_dir"


def keep_logs(state_dir: Path) -> None:
    """Send all that this process logs from now on to both logs.

    Raises:
        ConfigError: the second one cannot be written.
    """
    path = state_dir / "logs" / DETAILS_NAME
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        details = Details(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; check state_dir in the site file and its permissions") from None
    printed = logging.StreamHandler()
    details.setFormatter(logging.Formatter(LOG_FORMAT))
    printed.setFormatter(Redacting(LOG_FORMAT))
    printed.addFilter(logging.Filter("client"))
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a record that cannot be written would go to stderr with its arguments, unredacted
    logging.basicConfig(level=logging.INFO, handlers=[details, printed], force=True)


def without_logs(error: ConfigError) -> str:
    """What a process prints that ends before it has logs: the error's own words name files."""
    return f"error: {error.public} python -m client --check says what is wrong."


class Details(WatchedFileHandler):
    """Writes to a file that runner and worker share, mode 600, and begins a new one when it is full."""

    def emit(self, record: logging.LogRecord) -> None:
        path = Path(self.baseFilename)
        with contextlib.suppress(OSError):  # the other process has begun a new one at this moment
            if path.stat().st_size > DETAILS_BYTES:
                path.replace(path.with_name(f"{DETAILS_NAME}.1"))
        try:
            super().emit(record)
        except OSError:  # the new one cannot be opened
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging calls it so
        with contextlib.suppress(OSError):
            print(NOT_WRITTEN, file=sys.stderr, flush=True)

    def _open(self) -> TextIOWrapper:
        os.close(os.open(self.baseFilename, os.O_CREAT | os.O_APPEND, 0o600))
        return super()._open()


class Redacting(logging.Formatter):
    """Formats a record for the first log: no traceback, and no argument of a warning or an error that names
    anything."""

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)
        record.exc_info = record.exc_text = record.stack_info = None
        if record.levelno >= logging.WARNING:
            record.args = tuple(map(_public, record.args)) if isinstance(record.args, tuple) else ()
            record.msg = f"{record.msg} (in full: {DETAILS_NAME})"
        return super().format(record)


def _public(argument: object) -> object:
    if isinstance(argument, AgiError):
        return argument.public
    return argument if isinstance(argument, int | float) else "…"
