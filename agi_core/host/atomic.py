"""Files that are there completely or not at all: temporary file in the same folder, fsync, rename, fsync of the folder.

A process that is killed leaves at most a file or a folder whose name starts with `.tmp-`; readers never look at those,
and `remove_stale` deletes old ones.
"""

import contextlib
import errno
import json
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agi_core.errors import ConfigError, RunError

STALE_S = 6 * 3600
_TEMPORARY_PREFIX = ".tmp-"
_TEMPORARY = re.compile(r"\.tmp-\d+-[0-9a-f]{8}-.+", re.DOTALL)  # no other program's


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with the same suffixes, for a writer that wants a file name.

    When the block ends, the file replaces `path` at once; when it raises, nothing is left behind.

    Raises:
        RunError: the folder cannot be written or the disk is full.
    """
    temporary_path = path.with_name(f"{_TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary_path
        _fsync(temporary_path)
        temporary_path.replace(path)
        _fsync(path.parent)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary_path.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, creating its folder. Raises RunError as `replacing` does."""
    with replacing(path) as temporary_path:
        temporary_path.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8. Raises RunError as `replacing` does.

    What UTF-8 cannot hold (a lone surrogate, from a file name in another encoding) becomes its escape, `\\udcff`.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON; NaN and infinity are refused (ValueError), since they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def keep_newest(written: Path, *, most: int, most_bytes: float = math.inf) -> None:
    """Delete all but the newest of the files beside `written` that have its suffix: at most `most` stay, and of at most
    `most_bytes` together. The file just `written` is the newest, whatever the clock says, and stays however large it
    is.

    Raises:
        OSError: one cannot be deleted.
    """
    files = sorted(written.parent.glob(f"*{written.suffix}"), key=lambda file: -file.stat().st_mtime_ns)
    total_bytes = written.stat().st_size
    for number, file in enumerate((file for file in files if file != written), start=1):
        total_bytes += file.stat().st_size
        if number >= most or total_bytes > most_bytes:
            file.unlink()


def check_file(path: Path, *, suffix: str) -> None:
    """Raise ConfigError, before long work, where its result could not be written to a new file of this suffix. Nothing
    is written, so a full disk is not found."""
    if path.suffix != suffix:
        raise ConfigError(f"{path}: let --out end in {suffix}")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give --out the name of a file")
    if path.exists():
        raise ConfigError(f"{path} is there already; choose another --out, or remove it")
    folder_dir = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder_dir.is_dir() and os.access(folder_dir, os.W_OK | os.X_OK)):
        raise ConfigError(
            f"{path} cannot be written: {folder_dir} is no folder that you may write to; choose another --out"
        )


def append_line(path: Path, line: str) -> None:
    """Append one line to `path` and return when it is on the disk; a line that does not fit is taken back.

    Raises:
        RunError: the file cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            start = file.tell()
            try:
                content = line.encode(errors="backslashreplace") + b"\n"
                while content:
                    content = content[file.write(content) :]
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(start)
                raise
    except OSError as error:
        raise _write_error(path, error) from error


def check_new_folder(path: Path) -> None:
    """Raise ConfigError unless `new_folder` can put a folder there: where nothing is yet, or in place of an empty one
    that is neither the working folder nor a drive's own."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{path} is there already and not an empty folder; choose another --out, or remove it")
    if not path.name or path.is_mount():
        raise ConfigError(f"{path} cannot be replaced by a new folder; give --out a name in it")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`, which becomes `path` when the block ends; when it raises, nothing
    is left behind. An error of the block about another file is raised as it is.

    Raises:
        ConfigError: as `check_new_folder`.
        RunError: it cannot be written or the disk is full.
    """
    check_new_folder(path)
    temporary_dir = path.with_name(f"{_TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        temporary_dir.mkdir(parents=True)
        remove_stale(path.parent)
        yield temporary_dir
        temporary_dir.replace(path)
        _fsync(path.parent)
    except OSError as error:
        about = Path(error.filename or temporary_dir)
        if not about.is_relative_to(temporary_dir) and not temporary_dir.is_relative_to(about):
            raise
        raise _write_error(path, error) from error
    finally:
        shutil.rmtree(temporary_dir, ignore_errors=True)


def remove_stale(folder_dir: Path) -> None:
    """Delete the temporary files and folders that killed processes left in `folder_dir`: nothing has been written to
    them for more than `STALE_S` seconds."""
    for temporary_path in folder_dir.glob(f"{_TEMPORARY_PREFIX}*"):
        if not _TEMPORARY.fullmatch(temporary_path.name):
            continue
        with contextlib.suppress(OSError):  # another process may delete it first
            written = max(path.lstat().st_mtime for path in (temporary_path, *temporary_path.rglob("*")))
            if time.time() - written > STALE_S:
                shutil.rmtree(temporary_path) if temporary_path.is_dir() else temporary_path.unlink()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_error(path: Path, error: OSError) -> RunError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"The disk is full: {path} could not be written. Free some space there, or choose another folder."
        )
    return RunError(
        f"{path} could not be written ({error.strerror or error}). Check the folder's permissions, or choose another."
    )
