"""`state_dir/told.json`: the sets of subjects that the site has told figures or statistics of, for life.

Two means over sets that differ by one person tell, by their difference, of that person. So do sums of several means,
over test subjects, over all, or over those who have the modalities of another scenario. The site therefore remembers
all sets that it told of. A new one is told of only if no linear combination of the means over all these sets is of
fewer subjects than the policy's minimum. One exception: the first set of a part may be small, such as the two test
subjects of a small site, and is told of as such. Within a part, two sets differ by that minimum in any case.

The few training subjects of whom the known range is told are a part too, and so are those of poses. What these measure
is told of nobody else, so the sets of each are compared with each other alone.

Otherwise the site answers on a set of that part that was told of before. A subject counts with the names of its visits:
of a subject with one more visit, another figure would be told. Where the minimum is 1, nothing is remembered.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from agi_core.data.scans import Subject
from agi_core.errors import DataError, PolicyError
from agi_core.host import atomic
from client.site.split import ever_given

NAME = "told.json"
MOST_SMALL_CELLS = 12  # of more, there are too many combinations to look at
Few = Literal["range", "poses"]
Part = Literal["train", "validation", "test", "all"] | Few
Sets = Sequence[frozenset[str]]


@dataclass(frozen=True)
class Told:
    """The file: the sets of each part, of names of subjects, and the number of validation slices."""

    sets: Mapping[str, Sets] = field(default_factory=dict)
    validation_slices: int | None = None


def told_subjects(
    state_dir: Path, part: Part, subjects: Collection[Subject], *, known_as: Mapping[str, str], minimum: int
) -> tuple[Subject, ...]:
    """Those of `subjects`, which are of one part of the site, that are told of; a new set is on the disk when this
    returns.

    Args:
        known_as: the name that each subject was first known by; see `lasting_split`.

    Raises:
        PolicyError: every set that may be told of holds a subject that is gone, or the first one is small and the
            site is not.
        DataError: the file cannot be read. RunError: it cannot be written.
    """
    if minimum <= 1:
        return tuple(subjects)
    path = state_dir / NAME
    told, by_name = _read(path), {_name(subject, known_as): subject for subject in subjects}
    before, now = told.sets.get(part, []), frozenset(by_name)
    if now in before:
        return tuple(subjects)
    few = get_args(Few)
    if not before and part not in few and len(now) < minimum <= (whole := _known(state_dir, part)):
        raise PolicyError(
            f"policy.minimum_subjects: of the {whole} {part} subjects of this site, {len(now)} are asked about, such as"
            f" those who have a rare modality; the first figure is of {minimum} or more"
        )
    apart = not before or min(len(now), *(len(earlier ^ now) for earlier in before)) >= minimum
    others = before if part in few else [one for name, its in told.sets.items() if name not in few for one in its]
    if apart and not _tell_of_few([*others, now], minimum=minimum):
        _write(path, replace(told, sets={**told.sets, part: [*before, now]}))
        return tuple(subjects)
    if usable := [earlier for earlier in before if earlier <= now]:
        return tuple(subject for name, subject in by_name.items() if name in usable[-1])
    raise PolicyError(
        f"policy.minimum_subjects: together with what was told of other sets of subjects, a figure of these {part}"
        f" subjects would tell of fewer than {minimum}; it is told again once so many have come or gone"
    )


def told_few(
    state_dir: Path, part: Few, subjects: Sequence[Subject], *, most: int, known_as: Mapping[str, str], minimum: int
) -> tuple[Subject, ...]:
    """At most `most` of the training subjects: those of whom `part` was told before, if all of them are there. Of the
    first few of each set that may be told of, two could differ by one subject. Raises as `told_subjects` does."""
    if minimum > 1:
        by_name = {_name(subject, known_as): subject for subject in subjects}
        for earlier in _read(state_dir / NAME).sets.get(part, []):
            if earlier <= by_name.keys():
                return tuple(subject for name, subject in by_name.items() if name in earlier)
    return told_subjects(state_dir, part, subjects[:most], known_as=known_as, minimum=minimum)


def told_slices(state_dir: Path, asked: int, *, minimum: int) -> int:
    """How many validation slices figures are of: as many as were asked for first. A figure of one slice more or less
    would tell of that slice. Raises as `told_subjects` does."""
    if minimum <= 1:
        return asked
    path = state_dir / NAME
    told = _read(path)
    if told.validation_slices is None:
        told = replace(told, validation_slices=asked)
        _write(path, told)
    return told.validation_slices or asked


def digest_of(subjects: Collection[Subject], *, known_as: Mapping[str, str]) -> str:
    """The same for the same set of subjects, with the same visits, and for no other."""
    return hashlib.sha256(json.dumps(sorted(_name(subject, known_as) for subject in subjects)).encode()).hexdigest()


def _known(state_dir: Path, part: Part) -> int:
    """How many subjects the site knows of this part, in all scenarios."""
    parts = vars(ever_given(state_dir))
    return len(parts[part]) if part in parts else sum(map(len, parts.values()))


def _name(subject: Subject, known_as: Mapping[str, str]) -> str:
    return " ".join([known_as[subject.id], *sorted(session.name for session in subject.sessions if session.name)])


def _tell_of_few(sets: Sets, *, minimum: int) -> bool:
    """Whether some linear combination of the sums over these sets is one over fewer subjects than the minimum, and not
    one of sums over such small sets themselves.

    Subjects that lie in the same sets, a cell, have the same weight in every combination. Combinations that have no
    weight outside of a group of cells make a space of rank(all) - rank(outside of the group) dimensions.
    """
    cells = Counter(tuple(subject in one for one in sets) for subject in frozenset().union(*sets))
    member = np.array([*cells], dtype=float).T  # (sets, cells)
    small = [number for number, size in enumerate(cells.values()) if size < minimum]
    sizes = [*cells.values()]
    if len(small) > MOST_SMALL_CELLS:
        return True
    for group in chain.from_iterable(combinations(small, count) for count in range(1, len(small) + 1)):
        if sum(sizes[number] for number in group) >= minimum:
            continue
        outside = np.delete(member, group, axis=1)
        within = member[~outside.any(axis=1)]
        if np.linalg.matrix_rank(member) - _rank(outside) > _rank(within):
            return True
    return False


def _rank(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> int:
    return int(np.linalg.matrix_rank(matrix)) if matrix.size else 0


def _read(path: Path) -> Told:
    try:
        if not path.exists():
            return Told()
        content = json.loads(path.read_bytes())
        sets = {part: [frozenset(map(str, one)) for one in sets] for part, sets in content["sets"].items()}
        slices = content["validation_slices"]
        return Told(sets, None if slices is None else int(slices))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; mend its permissions or its disk, and keep it"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(
            f"{path} is damaged, so it is unknown of whom figures were told: put back its last copy; without one,"
            " delete it, and let the site tell no figures (policy.metrics: []) and no statistics (policy.settings:"
            " {model.prior: [none]})"
        ) from None


def _write(path: Path, told: Told) -> None:
    sets = {part: [sorted(one) for one in sets] for part, sets in told.sets.items()}
    atomic.write_json(path, {"validation_slices": told.validation_slices, "sets": sets})
