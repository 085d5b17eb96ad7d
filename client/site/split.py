"""`state_dir/split.json`: which of the site's subjects train, validate and test. A subject keeps its part for good.

New subjects join, and each scenario has other subjects with all its modalities. If the split were drawn anew each time,
a test subject could become a training subject. A subject whose privacy budget is spent could become a validation
subject, and so part of a figure that leaves.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from agi_core.data.partition import Split, split_subjects
from agi_core.errors import DataError
from agi_core.host import atomic

NAME = "split.json"


def lasting_split(state_dir: Path, subject_ids: Sequence[str], *, tests: Sequence[str] = ()) -> Split:
    """The split of these subjects. A new subject gets a part, which is on the disk when this returns; one of `tests` is
    a test subject.

    Raises:
        DataError: the file cannot be read, or one of `tests` has had another part. RunError: it cannot be written.
    """
    path = state_dir / NAME
    stored = _read(path) if path.exists() else Split()
    if seen := sorted({*tests} & {*stored.train, *stored.validation}):
        raise DataError(
            f"{seen[0]} is one of data.test_subjects, but {path} says that it has trained or validated; take it off the"
            " list: it cannot be an honest test any more"
        )
    known = dataclasses.replace(stored, test=tuple({*stored.test, *tests}))
    split = split_subjects(subject_ids, before=known)
    together = Split(
        *(tuple(sorted({*getattr(known, part.name), *getattr(split, part.name)})) for part in dataclasses.fields(Split))
    )
    if together != stored:
        atomic.write_json(path, dataclasses.asdict(together))
    return split


def _read(path: Path) -> Split:
    try:
        return Split(
            **{part: tuple(map(str, subject_ids)) for part, subject_ids in json.loads(path.read_bytes()).items()}
        )
    except (OSError, ValueError, TypeError, AttributeError):
        raise DataError(
            f"{path} cannot be read, so it is unknown who trained and who tested: put back its last copy; without one,"
            " delete it, and let no figure of this site count that is measured on subjects of earlier runs"
        ) from None
