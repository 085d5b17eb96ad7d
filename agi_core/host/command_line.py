"""What the command lines share: how a command ends, and the types of arguments."""

import argparse
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agi_core.errors import AgiError
from agi_core.names import shown

DONE, MISTAKE, INTERRUPTED, TERMINATED = 0, 2, 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived in a `terminable` block."""


def keep_files_private() -> None:
    """From now on, whatever this process and its children write is for its own user alone."""
    os.umask(0o077)


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block, SIGTERM ends a command as Ctrl-C does. Batch systems send it when a job's time is over."""

    def end(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_command(
    command: Callable[[], int | None], *, place: Callable[[], object] = Path, hint: Callable[[], str] = str
) -> int:
    """Run a command to its exit code: its own (None is 0), 2 after a user's mistake, 130 after Ctrl-C, 143 after
    SIGTERM. What it writes is for its own user alone.

    A mistake is one sentence on stderr, on one line whatever names are in it, without a traceback. What the terminal's
    encoding does not have is printed as its escape: no run is lost for the sake of a letter.

    Args:
        place: asked where an operating system's error that names no file occurred.
        hint: asked after Ctrl-C or SIGTERM for how the user can go on; "" = there is nothing to say.
    """
    keep_files_private()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return command() or DONE
    except AgiError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        return MISTAKE
    except OSError as error:
        where = shown(str(error.filename or place()))
        print(f"error: {where}: {error.strerror}; check its permissions and the free disk space", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt as stop:
        print("\ninterrupted" + (f"; {text}" if (text := hint()) else ""), file=sys.stderr)
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"write a whole number from 1 on, not {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"write a whole number from 0 on, not {text!r}")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"write a positive number, not {text!r}")
    return value


def named_path(form: str) -> Callable[[str], tuple[str, Path]]:
    """The type of an argument NAME=FILE: (name, path). `form` tells the user how to write it."""

    def parse(text: str) -> tuple[str, Path]:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise argparse.ArgumentTypeError(f"write {form}, not {text!r}")
        return name, Path(path)

    return parse
