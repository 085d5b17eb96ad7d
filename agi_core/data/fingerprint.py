"""What identifies a scan: the content of its file. Names, sizes and times do not: two data sets may share them.

A fingerprint is a hash of the file as it is stored: of its size and of `_BLOCKS` blocks from its first byte, where the
header is, to its last, where gzip has the checksum of all voxels. In a `.nii.gz` it so depends on every voxel. In a
large uncompressed file, voxels between two blocks may change without a trace.
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agi_core.data.nifti import FloatArray
from agi_core.data.scans import Subject
from agi_core.errors import DataError

_BLOCKS, _BLOCK_BYTES = 64, 4096

Use = tuple[str, str, Path]
"""Subject, modality and file of a scan."""


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's size and sampled blocks, in hexadecimal. Raises DataError where it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            small = path.stat().st_size <= _BLOCKS * _BLOCK_BYTES  # its blocks overlap
            return content_fingerprint(file.read()) if small else _of_blocks(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check its permissions, and the drive.") from error


def content_fingerprint(content: bytes) -> str:
    """The `fingerprint` of a file that holds these bytes."""
    return _of_blocks(io.BytesIO(content))


def fingerprints(subjects: Iterable[Subject]) -> dict[str, list[str]]:
    """{subject id: the fingerprint of each of its scans}, visit after visit.

    Raises:
        DataError: a file cannot be read, or one content is that of two subjects or of two modalities: a person under
            two names would be trained on under the one and tested under the other.
    """
    uses: list[tuple[str, Use]] = []
    of_subject: dict[str, list[str]] = {}
    for subject in subjects:
        of_subject[subject.id] = own = []
        for session in subject.sessions:
            for modality, path in sorted(session.paths.items()):
                own.append(fingerprint(path))
                uses.append((own[-1], (subject.id, modality, path)))
    check_different(uses)
    return of_subject


def part_of(scans: Iterable[str], parts: Mapping[str, str]) -> str | None:
    """The part of a subject with these scans, by any of them that is known: who comes back with one more visit is the
    same person. Where several parts are known, `train`, then `validation`. None: no scan is known.

    Args:
        parts: {fingerprint of a scan: `train`, `validation` or `test`}.
    """
    known = {parts[scan] for scan in scans if scan in parts}
    return next((part for part in ("train", "validation", "test") if part in known), None)


def image_fingerprint(data: FloatArray) -> str:
    """SHA-256 of a volume's voxels (I, J, K), in hexadecimal: the same for one image in two files."""
    return hashlib.sha256(np.ascontiguousarray(data).data).hexdigest()


def _of_blocks(file: Any) -> str:
    last = file.seek(0, 2) - _BLOCK_BYTES
    digest = hashlib.sha256(f"{last}:".encode())
    for start in sorted({max(0, last * block // (_BLOCKS - 1)) for block in range(_BLOCKS)}):
        file.seek(start)
        digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def check_different(scans: Iterable[tuple[str, Use]]) -> None:
    """Refuse one content that is the scan of two subjects, or of two modalities; visits of a subject may share one.

    Args:
        scans: fingerprint and use of each.

    Raises:
        DataError: with the first two files, and who may be left out.
    """
    uses: dict[str, list[Use]] = defaultdict(list)
    for content, use in scans:
        uses[content].append(use)
    same = [used for used in uses.values() if len({(subject, modality) for subject, modality, _ in used}) > 1]
    if not same:
        return
    left_out: list[str] = []
    for used in same:
        rest = {(subject, modality) for subject, modality, _ in used if subject not in left_out}
        if len(rest) > 1:
            names = sorted({subject for subject, _ in rest})
            left_out += names[1:] or names
    raise DataError(
        f"{' and '.join(str(path) for _, _, path in same[0])} hold the same image"
        f" ({len(same)} such image{'s' * (len(same) > 1)}). A person counts once, and each modality has its own scan:"
        f" correct the files, or leave subjects out with data.exclude=[{','.join(left_out)}]"
    )
