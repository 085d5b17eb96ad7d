"""The zip: its names, its checksums, and how it is read by somebody who does not trust it.

Nothing is unpacked. A zip is read in memory, within limits that its own header cannot raise, and every file is compared
with its checksum before one is used. The checksums find damage, not malice: whoever can change the zip can change them.
The checksum of the whole zip, which the exporter prints, is to be compared over another channel.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError
from safetensors.numpy import load

from agi_core.errors import RunError
from agi_core.export.description import Description
from agi_core.host import atomic
from agi_core.names import shown
from agi_core.protocol import Weights

ROOT = "agi_fed_model"
DESCRIPTION, WEIGHTS, CHECKSUMS = "configs/agi_fed.json", "models/model.safetensors", "checksums.sha256"
ERROR_MODEL, KNOWN_RANGE = "models/error_model.safetensors", "configs/known_range.json"
"""By which a volume can be doubted; not every run has them."""
STYLES = "models/styles/"
"""In which SITE.safetensors are the own weights that a site has shared."""
MOST_FILES, MOST_BYTES = 500, 2 * 2**30
"""Of a zip that is read, all files together and uncompressed."""
_CHUNK_BYTES = 2**20
_READ_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, SafetensorError)
_DATE = (1980, 1, 1, 0, 0, 0)  # the same files make the same zip


def write_archive(path: Path, files: Mapping[str, bytes]) -> str:
    """Write a zip of {name: content} with their checksums; returns the checksum of the zip. Raises RunError."""
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items())]
    with atomic.replacing(path) as temporary_path:
        with zipfile.ZipFile(temporary_path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {**files, CHECKSUMS: "".join(lines).encode()}.items():
                archive.writestr(zipfile.ZipInfo(f"{ROOT}/{name}", _DATE), content, zipfile.ZIP_DEFLATED)
        with temporary_path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _is_style(name: str) -> bool:
    path = PurePosixPath(name)
    return f"{path.parent}/" == STYLES and path.suffix == ".safetensors" and shown(path.stem) == path.stem


def read_archive(path: Path, *, release: str) -> tuple[Description, Weights, dict[str, bytes]]:
    """The model in a zip of `write_archive`, and {name: content} of what else a volume may need: ERROR_MODEL,
    KNOWN_RANGE and the files in STYLES, as far as it has them.

    Raises:
        RunError: the file is missing or no zip, its names or its size are not those of a model, a file in it is damaged
            or missing, or another release wrote it.
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist; give the zip that export has written")
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            _check(path, archive, members)
            values = json.loads(archive.read(members[DESCRIPTION]))
            theirs = values.get("release") if isinstance(values, dict) else None
            if theirs != release:
                raise RunError(
                    f"{path} is of release {theirs}, and this is release {release}; install that one, or"
                    " ask for a zip of this one"
                )
            extras = [name for name in members if name in (ERROR_MODEL, KNOWN_RANGE) or _is_style(name)]
            read = {name: archive.read(members[name]) for name in extras}
            return Description.from_json(values), load(archive.read(members[WEIGHTS])), read
    except _READ_ERRORS as error:
        raise RunError(f"{path} is no zip of a model, or is damaged ({error}); copy it again") from None


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files below ROOT by their names, if all names and the sizes are possible."""
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    if len(entries) > MOST_FILES or size > MOST_BYTES:
        raise RunError(
            f"{path} holds {len(entries)} files of {size / 2**30:.1f} GiB, which is more than any model"
            f" (limits {MOST_FILES} and {MOST_BYTES / 2**30:.0f} GiB); it was not opened"
        )
    members: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if "\\" in entry.filename or ".." in parts or parts[:1] != (ROOT,) or entry.is_dir():
            raise RunError(f"{path} holds {entry.filename!r}, a name outside of {ROOT}/; it is no zip of a model")
        name = "/".join(parts[1:])
        if name in members:
            raise RunError(f"{path} holds {name} twice; it is no zip of a model")
        members[name] = entry
    if missing := {DESCRIPTION, WEIGHTS, CHECKSUMS} - set(members):
        raise RunError(f"{path} has no {', '.join(sorted(missing))}; it is no zip of a model")
    return members


def _check(path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> None:
    expected: dict[str, str] = {}
    for line in archive.read(members[CHECKSUMS]).decode().splitlines():
        checksum, _, name = line.partition("  ")
        expected[name] = checksum
    found = {name: _checksum(archive, entry) for name, entry in members.items() if name != CHECKSUMS}
    if wrong := sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name)):
        raise RunError(f"{path}: the checksum of {wrong[0]} is wrong; copy the zip again, or ask for a new one")


def _checksum(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(archive, entry):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(entry) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
