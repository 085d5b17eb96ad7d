"""Site maps: tables that say at which hospital a subject was scanned.

Read are FeTS partitionings (`Partition_ID,Subject_ID`), the BraTS mapping tables (a column "Site No (represents the
originating institution)" beside one column of names per challenge year: BraTS2023, BraTS2021, ...) and BIDS
`participants.tsv`. Columns are found by their titles. Any other column may name a subject (a twin, a matched control):
it says nothing of the person of its row.
"""

import csv
import io
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agi_core.data.scan_files import Skipped
from agi_core.errors import ConfigError, DataError
from agi_core.names import shown, site_name, skeleton

# Titles in lower case without anything but letters and digits; of sites in order of preference.
_SITE = (
    *("partitionid", "site", "siteid", "sitename", "center", "centerid", "centre", "centreid", "institution"),
    *("institutionname", "hospital", "hospitalname", "siteno", "sitenorepresentstheoriginatinginstitution"),
)
_SUBJECT = re.compile(r"(participant|subject|patient|case|ixi)(id)?|id|(brats|fets)[0-9]{2,4}(subject)?(id)?")
_NOTHING = {"", "n/a", "na", "nan", "none", "null"}  # how tables say that there is no value, in lower case


@dataclass(frozen=True)
class Columns:
    """Titles of a table: all of them, and the positions of those that give the site (the preferred first) and of those
    that name the person of the row."""

    all: tuple[str, ...]
    site: tuple[int, ...]
    subject: tuple[int, ...]


@dataclass(frozen=True)
class SiteMap:
    """What a table of sites says.

    Attributes:
        path: the table.
        sites: the site of each subject.
        rows: the names of the one person in each row.
        unread: rows whose name is none of this layout.
        notes: what was decided and should be known.
    """

    path: Path
    sites: Mapping[str, str]
    rows: tuple[frozenset[str], ...]
    unread: tuple[Skipped, ...]
    notes: tuple[str, ...]

    def rows_without(self, subjects: Collection[str]) -> int:
        """Number of rows that name none of `subjects`."""
        return sum(row.isdisjoint(subjects) for row in self.rows)


def columns(path: Path) -> Columns:
    """The columns of a table of subjects. Raises ConfigError and DataError as `read_site_map` does."""
    return _columns(next(_rows(path), (0, []))[1])


def read_site_map(path: Path, *, subject_of: Callable[[str], str | None], like: str) -> SiteMap:
    """Read a table of sites: UTF-8, separated by commas, semicolons or tabs, with a header. A `.tsv` is separated by
    tabs, and a quote within a cell of it is a letter.

    Numbers become names: `1`, `01` and `1.0` are all `site1`. Other names become safe ones (`names.site_name`). A row
    without a site (empty or `n/a`) maps nobody. Several names in one row are names of one person.

    Args:
        path: the table.
        subject_of: the subject that a cell names, itself or by one of its visits; None where it names no subject.
        like: a subject of the data folder, for messages.

    Raises:
        ConfigError: the file does not exist, cannot be read, or is a spreadsheet.
        DataError: columns are missing, a row is longer than the header, one subject has two sites, or two sites would
            be called the same.
    """
    rows = _rows(path)
    titles = _columns(next(rows, (0, []))[1])
    listed = ", ".join(map(shown, titles.all)) or "(none)"
    if not titles.site:
        raise DataError(
            f"{path} has no column that gives the site; its columns are {listed}. Name the "
            "column Partition_ID (FeTS), Site No (represents the originating institution) (BraTS), or site"
        )
    if not titles.subject:
        raise DataError(
            f"{path} has no column that names the subjects; its columns are {listed}. Name the column participant_id"
            " (BIDS), Subject_ID (FeTS), BraTS2023 or BraTS2021"
        )
    column, *others = titles.site
    first_line: dict[str, int] = {}
    sites: dict[str, str] = {}
    written: dict[str, str] = {}  # {site: as the table has it}
    named: list[frozenset[str]] = []
    unread: list[Skipped] = []
    for line, cells in rows:
        if any(cell.strip() for cell in cells[len(titles.all) :]):
            raise DataError(
                f"{path}, line {line} has more cells than the header, so it is unclear which is the site; quote a name "
                "that has a separator in it"
            )
        names = [cell for i in titles.subject if (cell := _cell(cells, i))]
        subjects = frozenset(filter(None, map(subject_of, names)))
        if subjects:
            named.append(subjects)
        elif names:
            place = f"line {line} of {path.name}: {shown(names[0])}"
            unread.append(Skipped(place, f"a row of the site map that names no subject such as {like}"))
        if not (text := _cell(cells, column)) or not subjects:
            continue
        site, text = _site(text, place=f"{path}, line {line}")
        if written.setdefault(site, text) != text:
            raise DataError(
                f"{path}: the sites {shown(written[site])} and {shown(text)} would both be called {site}; rename one"
            )
        for subject in sorted(subjects):
            if sites.setdefault(subject, site) != site:
                raise DataError(
                    f"{path}: {subject} is at {sites[subject]} in line {first_line[subject]} and at {site} in line "
                    f"{line}; a person belongs to one site, correct or remove one of the lines"
                )
            first_line.setdefault(subject, line)
    if not named:
        read = ", ".join(shown(titles.all[i]) for i in titles.subject)
        example = f" (first: {unread[0].place})" if unread else ""
        raise DataError(
            f"{path} names no subject of this layout in {read}{example}: subjects of the data folder are called as "
            f"{like} is. Write them so, the whole name, or check --sites and --layout"
        )
    notes = [f"the site {site} is called {shown(text)} in the table" for site, text in written.items() if site != text]
    looks = {skeleton(site): site for site in written}
    notes += [
        f"the sites {site} and {looks[skeleton(site)]} look alike; is it one hospital, written in two ways?"
        for site in written
        if looks[skeleton(site)] != site
    ]
    if others:
        ignored = ", ".join(shown(titles.all[i]) for i in others)
        notes.append(f"sites are read from the column {shown(titles.all[column])} of {path.name}, not from {ignored}")
    return SiteMap(path, sites, tuple(named), tuple(unread), tuple(notes))


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
    header, is_tsv = text.lstrip("\n").partition("\n")[0], path.suffix.lower() == ".tsv"
    separator = "\t" if is_tsv and "\t" in header else max("\t,;", key=header.count)
    # In BIDS's tables a quote is a letter like any other.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True)
    try:
        for cells in reader:
            if is_tsv:
                cells = [re.sub(r'^"([^"]*)"$', r"\1", cell) for cell in cells]
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; save it as CSV (UTF-8)") from error


def _columns(header: Sequence[str]) -> Columns:
    titles = [re.sub(r"[^a-z0-9]", "", title.lower()) for title in header]
    site = [i for name in _SITE for i, title in enumerate(titles) if title == name]
    return Columns(tuple(header), tuple(site), tuple(i for i, title in enumerate(titles) if _SUBJECT.fullmatch(title)))


def _cell(cells: Sequence[str], column: int) -> str:
    """The text of a cell; "" where it is missing or says that there is no value."""
    text = cells[column].strip() if column < len(cells) else ""
    return "" if text.lower() in _NOTHING else text


def _site(text: str, *, place: str) -> tuple[str, str]:
    """The site's name, and the text that it stands for: for a number, that name itself."""
    if number := re.fullmatch(r"([0-9]+)(?:\.0+)?", text):
        name = f"site{int(number[1])}"
        return name, name
    if (called := site_name(text)) is None:
        raise DataError(f"{place}: {shown(text)!r} cannot be the name of a site; use a few letters and digits")
    return called, text
