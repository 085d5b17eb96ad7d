"""Site maps: tables that say at which hospital a subject was scanned.

Read are FeTS partitionings (`Partition_ID,Subject_ID`), the BraTS mapping tables (a column "Site No (represents the
originating institution)" beside one column of names per challenge year: BraTS2023, BraTS2021, ...) and BIDS
`participants.tsv`. Which column holds the subjects is not asked: every cell that is a subject name of the layout
counts, so one BraTS table serves the trees of all its years.
"""

import csv
import io
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agi_core.errors import ConfigError, DataError

# In order of preference; compared in lower case. The last one is a prefix of the BraTS header.
SITE_COLUMNS = ("partition_id", "site", "site_id", "center", "centre", "institution", "site no")


@dataclass(frozen=True)
class SiteMap:
    """The site of each subject that a table names, and the subjects named by each of its rows."""

    path: Path
    sites: Mapping[str, str]
    rows: tuple[frozenset[str], ...]

    def rows_without(self, subjects: Collection[str]) -> int:
        """Number of rows that name none of `subjects`."""
        return sum(row.isdisjoint(subjects) for row in self.rows)


def has_site_column(path: Path) -> bool:
    """Whether the table at `path` says anything about sites (in `participants.tsv` it need not)."""
    header = next(_rows(path), (0, []))[1]
    return _site_column(header) is not None


def read_site_map(path: Path, *, subject_of: Callable[[str], str | None]) -> SiteMap:
    """Read a table of sites: UTF-8, separated by commas, semicolons or tabs, with a header.

    Numbers become names: `1`, `01` and `1.0` are all `site1`. A row without a site (empty or `n/a`) maps nobody.

    Args:
        path: the table.
        subject_of: the subject that a cell names, itself or by one of its visits; None where it names no subject.

    Raises:
        ConfigError: the file does not exist, cannot be read, or is a spreadsheet.
        DataError: columns are missing, or one subject has two sites.
    """
    rows = _rows(path)
    header = next(rows, (0, []))[1]
    column = _site_column(header)
    if column is None:
        raise DataError(
            f"{path} has no column that gives the site; its columns are {', '.join(header) or '(none)'}. Name the "
            "column Partition_ID (FeTS), Site No (represents the originating institution) (BraTS), or site"
        )
    first_line: dict[str, int] = {}
    sites: dict[str, str] = {}
    named: list[frozenset[str]] = []
    for line, cells in rows:
        site = _site_name(cells[column]) if column < len(cells) else None
        subjects = frozenset(filter(None, (subject_of(cell.strip()) for cell in cells)))
        if subjects:
            named.append(subjects)
        if site is None:
            continue
        for subject in sorted(subjects):
            if sites.setdefault(subject, site) != site:
                raise DataError(
                    f"{path}: {subject} is at {sites[subject]} in line {first_line[subject]} and at {site} in line "
                    f"{line}; a person belongs to one site, correct or remove one of the lines"
                )
            first_line.setdefault(subject, line)
    if not named:
        raise DataError(
            f"{path} names no subject of this layout in any of its columns ({', '.join(header)}); expected is a column "
            "of subject names, such as Subject_ID, BraTS2023, BraTS2021 or participant_id. Check the file and --layout"
        )
    return SiteMap(path, sites, tuple(named))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row that is not blank, the header first."""
    if path.suffix.lower() in {".xlsx", ".xls", ".ods"}:
        raise ConfigError(f"{path} is a spreadsheet; save it as CSV (UTF-8) and pass that file")
    try:
        text = path.read_text(encoding="utf-8-sig")  # -sig: spreadsheets start their CSV files with a byte order mark
    except OSError as error:
        raise ConfigError(f"cannot read the site map {path}: {error.strerror}; check --sites") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as CSV (UTF-8)") from error
    separator = max(",;\t", key=text.lstrip("\n").partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; save it as CSV (UTF-8)") from error


def _site_column(header: list[str]) -> int | None:
    titles = [title.strip().lower() for title in header]
    for name in SITE_COLUMNS:
        for index, title in enumerate(titles):
            if title == name or (name == "site no" and title.startswith(name)):
                return index
    return None


def _site_name(cell: str) -> str | None:
    text = cell.strip()
    number = re.fullmatch(r"(\d+)(?:\.0+)?", text)
    if number:
        return f"site{int(number[1])}"
    return None if text.lower() in {"", "n/a"} else text
