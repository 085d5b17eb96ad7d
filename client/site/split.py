"""`state_dir/split.json`: which of the site's subjects train, validate and test. A subject keeps its part for good.

New subjects join, and each scenario has other subjects with all its modalities. If the split were drawn anew each time,
a test subject could become a training subject. A subject whose privacy budget is spent could become a validation
subject, and so part of a figure that leaves.

A subject is known by its images: with one of them it comes back under any name. A subject whose images are all new is
known by its name. The file has {"train", "validation", "test": names as they were first known, "images": {image: the
name}}; files of earlier releases have no images.
"""

import dataclasses
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agi_core.data.partition import Split, split_subjects, stable_order
from agi_core.errors import DataError
from agi_core.host import atomic, lock
from client.site.images import Images

NAME, LOCK_NAME = "split.json", "split.lock"
_PARTS = tuple(part.name for part in dataclasses.fields(Split))
_NAMED = 5  # subjects in a sentence


@dataclass(frozen=True)
class _Record:
    split: Split = field(default_factory=Split)
    images: dict[str, str] = field(default_factory=dict)


def lasting_split(state_dir: Path, images: Images, *, tests: Sequence[str] = ()) -> tuple[Split, dict[str, str]]:
    """The split of these subjects, and {subject id: the name that it is known by}. A new subject gets a part, which is
    on the disk when this returns; one of `tests` is a test subject.

    Raises:
        DataError: the file cannot be read, or one of `tests` has had another part. RunError: it cannot be written.
    """
    path = state_dir / NAME
    with lock.alone(state_dir / LOCK_NAME):  # worker, --check, --dry-run and --gallery may give parts at once
        record = _read(path)
        known = _known_as(record, images)
        kept_for_tests = {known[subject_id] for subject_id in tests if subject_id in known}
        if seen := sorted(kept_for_tests & {*record.split.train, *record.split.validation}):
            raise DataError(
                f"{seen[0]} is one of data.test_subjects, but {path} says that it has trained or validated; take it off"
                " the list: it cannot be an honest test any more"
            )
        before = dataclasses.replace(record.split, test=tuple(sorted({*record.split.test} | kept_for_tests)))
        split = split_subjects(set(known.values()), before=before)
        together = {part: sorted({*getattr(record.split, part), *getattr(split, part)}) for part in _PARTS}
        of_name = {image: known[subject_id] for subject_id, its in images.items() for image in its} | record.images
        if together != {part: sorted(getattr(record.split, part)) for part in _PARTS} or of_name != record.images:
            atomic.write_json(path, {**together, "images": of_name})
    parts = (
        stable_order(subject_id for subject_id, name in known.items() if name in getattr(split, part))
        for part in _PARTS
    )
    return Split(*parts), known


def known_as(state_dir: Path, images: Images) -> dict[str, str]:
    """{subject id: the name that it is known by}; nothing is written. Raises DataError as `lasting_split` does."""
    return _known_as(_read(state_dir / NAME), images)


def ever_given(state_dir: Path) -> Split:
    """The parts of all whom the site has ever known, whatever their modalities. Raises DataError as `lasting_split`
    does."""
    return _read(state_dir / NAME).split


def misspelt(state_dir: Path, tests: Sequence[str], *, everybody: Collection[str]) -> list[str]:
    """Those of `tests` who are not in the folder of scans and were never known as test subjects: the person who is
    meant would train. Raises DataError as `lasting_split` does."""
    return sorted({*tests} - {*everybody} - {*_read(state_dir / NAME).split.test})


def renamed(known: dict[str, str]) -> str:
    """A sentence about the subjects that are known by another name than theirs; "" where there are none."""
    others = [f"{subject_id} (was {name})" for subject_id, name in sorted(known.items()) if subject_id != name]
    if not others:
        return ""
    more = f" and {len(others) - _NAMED} more" * (len(others) > _NAMED)
    return (
        f"{', '.join(others[:_NAMED])}{more}: known by scans and not by name; each keeps its part of the split, and"
        " what was spent on it"
    )


def _known_as(record: _Record, images: Images) -> dict[str, str]:
    """Of several names, that of a training subject first: who may have trained neither validates nor tests."""
    names = [*record.split.train, *record.split.validation, *record.split.test]
    by_image = {
        subject_id: {record.images[image] for image in its if image in record.images}
        for subject_id, its in images.items()
    }
    known = {subject_id: min(found, key=names.index) for subject_id, found in by_image.items() if found}
    gone = {name for subject_id, name in known.items() if subject_id != name}
    for subject_id in images.keys() - known.keys():  # its name may have become that of somebody new
        known[subject_id] = f"{subject_id}:{images[subject_id][0][:8]}" if subject_id in gone else subject_id
    return known


def _read(path: Path) -> _Record:
    try:
        content = json.loads(path.read_bytes()) if path.exists() else {}
        images = {str(image): str(name) for image, name in content.pop("images", {}).items()}
        split = Split(**{part: tuple(map(str, subject_ids)) for part, subject_ids in content.items()})
        if not {*images.values()} <= {*split.train, *split.validation, *split.test}:
            raise ValueError
        return _Record(split, images)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; mend its permissions or its disk, and keep it"
        ) from None
    except (ValueError, TypeError, AttributeError):
        raise DataError(
            f"{path} is damaged, so it is unknown who trained and who tested: put back its last copy; without one,"
            " delete it, and let no figure of this site count that is measured on subjects of earlier runs"
        ) from None
