"""`state_dir/split.json`: who of the site's subjects trains, validates and tests, for good.

Subjects join, and scenarios differ in who has all their modalities. Were the split drawn anew each time, a test subject
could become a training subject, or one whose privacy budget is spent a figure in a report.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from agi_core.data.partition import Split, split_subjects
from agi_core.errors import DataError
from agi_core.host import atomic

NAME = "split.json"


def lasting_split(state_dir: Path, subject_ids: Sequence[str]) -> Split:
    """The split of these subjects; newcomers get a part, which is on the disk when this returns.

    Raises:
        DataError: the file cannot be read. RunError: it cannot be written.
    """
    path = state_dir / NAME
    known = _read(path) if path.exists() else Split()
    split = split_subjects(subject_ids, before=known)
    together = Split(
        *(tuple(sorted({*getattr(known, part.name), *getattr(split, part.name)})) for part in dataclasses.fields(Split))
    )
    if together != known:
        atomic.write_json(path, dataclasses.asdict(together))
    return split


def _read(path: Path) -> Split:
    try:
        return Split(
            **{part: tuple(map(str, subject_ids)) for part, subject_ids in json.loads(path.read_text()).items()}
        )
    except (OSError, ValueError, TypeError, AttributeError):
        raise DataError(
            f"{path} cannot be read, so it is unknown who trained and who tested: put back its last copy; without one,"
            " delete it, and let no figure of this site count that is measured on subjects of earlier runs"
        ) from None
