"""Doubts about scans, put together: equal ones are one row of `--check`, and subjects that have the same are one line
of the table at its end."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from client.check.rows import CheckRow, warning

UNUSABLE = "cannot be used: see the rows above"
NAMED_SUBJECTS = 3  # of those that have the same doubts
LOOK = "look at the scans of this session one over the other; if they are wrong, convert them again or leave them out"


@dataclass(frozen=True)
class DoubtedScan:
    """One scan with one doubt: `cause` is the same text for the same cause, `found` is what this scan has."""

    subject: str
    modality: str
    path: str
    cause: str
    found: str


def rows_of(scans: Sequence[DoubtedScan]) -> Iterator[CheckRow]:
    """A row for each cause, with its first scan."""
    by_cause: dict[str, list[DoubtedScan]] = defaultdict(list)
    for scan in scans:
        if scan.cause != UNUSABLE:  # has a row of its own
            by_cause[scan.cause].append(scan)
    for cause, doubted in by_cause.items():
        first = doubted[0]
        if len(doubted) == 1:
            yield warning(f"scan {first.subject} {first.modality}", f"{first.path}: {cause} ({first.found})", fix=LOOK)
        else:
            found = f"{cause}, in {len(doubted)} scans (first: {first.path}: {first.found})"
            yield warning("scans", found, fix=f"{LOOK}; the table below has the subjects")


def table(scans: Sequence[DoubtedScan], *, subjects: int) -> list[str]:
    """Lines of text: for subjects with the same doubts, a letter for each doubt below each modality; then the letters.
    Empty where nothing is doubted. `subjects` is how many were looked at."""
    if not scans:
        return []
    modalities = sorted({scan.modality for scan in scans})
    causes = list(dict.fromkeys(scan.cause for scan in scans))
    letters = {cause: ascii_lowercase[number % 26] * (1 + number // 26) for number, cause in enumerate(causes)}
    doubts: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for scan in scans:
        doubts[scan.subject][scan.modality].add(letters[scan.cause])
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for subject, marks in doubts.items():
        alike[tuple(" ".join(sorted(marks[modality])) or "-" for modality in modalities)].append(subject)
    lines = [("subjects", *modalities)]
    lines += [(_named(names), *cells) for cells, names in alike.items()]
    if others := subjects - len(doubts):
        lines.append((f"{others} others", *("-" for _ in modalities)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    counts = Counter(scan.cause for scan in scans)
    return [
        *("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines),
        *(f"{letters[cause]}  {cause}, in {counts[cause]} scan{'s' * (counts[cause] > 1)}" for cause in causes),
    ]


def from_json(rows: Sequence[Mapping[str, str]]) -> list[DoubtedScan]:
    """The doubted scans of a report."""
    return [DoubtedScan(**row) for row in rows]


def _named(subjects: Sequence[str]) -> str:
    more = len(subjects) - NAMED_SUBJECTS
    return ", ".join(subjects[:NAMED_SUBJECTS]) + (f" and {more} more" if more > 0 else "")
