"""The files below a data folder that may be scans. What is not looked at is listed with its reason."""

import os
import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from agi_core.errors import DataError
from agi_core.names import shown

MAX_DEPTH = 3  # folders between the data folder and a scan
_SYSTEM = {"__macosx", "lost+found", "recycled", "recycler", "system volume information", "trash"}
_SYSTEM_STARTS = (".", "$", "@", "#")  # .git, .Trash-1000, $RECYCLE.BIN, @eaDir, #recycle
_DOCUMENT = re.compile(
    r"\..*|(authors|changes|copying|license|makefile|readme)(\..*)?"
    r"|.*\.(bval|bvec|cff|csv|docx?|html?|ini|ipynb|jpe?g|json|log|m|mat|md|ods|pdf|png|py|rst|sh|svg|toml|tsv|txt"
    r"|xlsx?|xml|ya?ml)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Skipped:
    """A file, folder, visit or subject that is left out. Reasons are the same text for the same cause, so that they
    count."""

    place: str
    reason: str


def scan_files(data_dir: Path) -> tuple[list[str], list[Skipped]]:
    """Paths of the NIfTI files up to `MAX_DEPTH` folders below `data_dir`, relative to it, with `/`, sorted; and what
    else is there that is neither a scan nor a document.

    Each folder is looked into once: links to folders come after the folders themselves, and a link back to a folder
    that holds it is not followed.

    Raises:
        DataError: a folder cannot be read.
    """
    found: list[str] = []
    skipped: list[Skipped] = []
    seen: set[tuple[int, int]] = set()
    folders, links = deque([""]), deque[str]()
    root = data_dir.resolve()
    while folders or links:
        is_link, below = (False, folders.popleft()) if folders else (True, links.popleft())
        try:
            status = (data_dir / below).stat()
            entries = sorted(os.scandir(data_dir / below), key=lambda entry: entry.name)
        except OSError as error:
            place = shown(str(error.filename))
            raise DataError(
                f"cannot read the folder {place}: {error.strerror}; check its name and permissions"
            ) from error
        if (status.st_dev, status.st_ino) in seen or (is_link and root.is_relative_to((data_dir / below).resolve())):
            skipped.append(Skipped(below, "a link to a folder that is looked into already"))
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            is_folder = os.path.isdir(entry.path)
            if reason := _unused(name, is_folder=is_folder):
                skipped.append(Skipped(shown(name), reason))
            elif is_folder:
                (links if entry.is_symlink() else folders).append(name)
            elif is_nifti(name):
                found.append(name)
    return sorted(found), skipped


def is_nifti(name: str) -> bool:
    """Whether a file has the name of a NIfTI file, in capitals or not."""
    return name.lower().endswith((".nii", ".nii.gz"))


def _unused(path: str, *, is_folder: bool) -> str:
    """Why the file or folder is not looked at; "" where it is, or where it is a document."""
    name = path.rpartition("/")[2].lower()
    if shown(path) != path:
        return "its name has characters that cannot be shown (control characters, or no UTF-8)"
    if is_folder:
        if name.startswith(_SYSTEM_STARTS) or name in _SYSTEM:
            return "a folder of the system"
        return f"more than {MAX_DEPTH} folders deep" if path.count("/") >= MAX_DEPTH else ""
    return "" if is_nifti(name) or _DOCUMENT.fullmatch(name) else "no .nii or .nii.gz file; convert it if it is a scan"
