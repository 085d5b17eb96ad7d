"""`state_dir/images.jsonl`: the image that each file of a scan holds, so that no file is read for it twice.

A subject is known by the images of its scans. Its name may change, and so may its files: they are compressed anew, or
exported once more.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from agi_core.data.fingerprint import check_different, fingerprint, image_fingerprint
from agi_core.data.nifti import read_volume
from agi_core.data.scans import Subject
from agi_core.errors import DataError
from agi_core.host import atomic
from agi_core.run import progress

NAME = "images.jsonl"
Images = Mapping[str, Sequence[str]]
"""{subject id: fingerprints of the images of its scans}."""


def images_of(state_dir: Path, subjects: Sequence[Subject], *, site: str) -> dict[str, list[str]]:
    """The images of these subjects. A scan that was not read before, here or by `--check`, is read now.

    Raises:
        DataError: a scan is unusable, or one image is that of two subjects or of two modalities.
        RunError: `state_dir` cannot be written.
    """
    known = _read(state_dir / NAME)
    images: dict[str, list[str]] = {subject.id: [] for subject in subjects}
    uses = []
    for done, subject in enumerate(subjects, start=1):
        for modality, path in (scan for session in subject.sessions for scan in sorted(session.paths.items())):
            content = fingerprint(path)
            if content not in known:
                known[content] = _image(path, subject)
                remember(state_dir, {content: known[content]})
            images[subject.id].append(known[content])
            uses.append((known[content], (subject.id, modality, path)))
        progress.report(progress.Step("reading scans", site, done, len(subjects)))
    check_different(uses)
    return images


def remember(state_dir: Path, images: Mapping[str, str]) -> None:
    """Keep {fingerprint of a file: fingerprint of its image}. Raises RunError where `state_dir` cannot be written."""
    if images:
        atomic.append_line(state_dir / NAME, json.dumps(images))


def _image(path: Path, subject: Subject) -> str:
    try:
        return image_fingerprint(read_volume(path).data)
    except DataError as error:
        raise DataError(f"{error} (To go on without this subject: data.exclude=[{subject.id}])") from error


def _read(path: Path) -> dict[str, str]:
    """All that is known; a damaged line is not, and its files are read again."""
    known: dict[str, str] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            known |= {str(content): str(image) for content, image in json.loads(line).items()}
        except (ValueError, AttributeError):
            continue
    return known
