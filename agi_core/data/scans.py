"""Scans: a data folder, how its files are named, and who is found in it.

Files are found by their names (`agi_core.layouts`) and are not opened. What cannot be used is listed with its reason.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from agi_core.config.schema import DataConfig, Registration
from agi_core.data.scan_files import MAX_DEPTH, Skipped, scan_files
from agi_core.data.site_map import SiteMap, columns, read_site_map
from agi_core.errors import AbsentError, ApartError, ConfigError, DataError
from agi_core.layouts import LAYOUTS, Layout, telling
from agi_core.names import shown
from agi_core.scenario import modality_parts

SINGLE_SITE = "site"  # where neither names nor a table tell the hospitals apart
_LABELS = {"seg"}  # drawn, not scanned
_SAME_CONTRAST = ({"t1", "t1n", "t1w"}, {"t1c", "t1ce"}, {"t2", "t2w"}, {"pd", "pdw"}, {"flair", "t2f"})  # for advice


@dataclass(frozen=True)
class Scans:
    """A data folder and what is to be known to read it.

    Attributes:
        dir: the folder with the scans.
        layout: how files and folders are named, a key of `LAYOUTS`.
        sites: a table of sites, see `site_map`; None: sites follow from names, or from `participants.tsv`.
        exclude: ids of subjects to leave out.
        register: whether every source is laid on the reference before anything else sees it.
        one_site: whether all subjects are one hospital's, so that `participants.tsv` is not asked for sites.
    """

    dir: Path
    layout: str
    sites: Path | None = None
    exclude: tuple[str, ...] = ()
    register: Registration = "none"
    one_site: bool = False

    @classmethod
    def of(cls, data: DataConfig) -> Self:
        """The scans of a configuration whose folder is known."""
        if data.dir is None:
            raise ValueError("data.dir is not filled in")
        sites = Path(data.sites).resolve() if data.sites else None
        return cls(Path(data.dir).resolve(), data.layout, sites, data.exclude, data.register)

    @classmethod
    def like(cls, data: DataConfig, folder: Path, *, layout: str | None = None) -> Self:
        """A folder, prepared as the scans of a configuration are; of its own folder, without whom it leaves out.

        Args:
            layout: None: as there.
        """
        own = data.dir is not None and Path(data.dir).resolve() == folder.resolve()
        exclude = data.exclude if own else ()
        return cls(folder.resolve(), layout or data.layout, exclude=exclude, register=data.register, one_site=True)

    def check_apart(self, folder: Path) -> None:
        """Raise ConfigError where a folder lies among the scans: synthetic ones in it would be found as real ones."""
        if folder.resolve().is_relative_to(self.dir.resolve()):
            raise ConfigError(f"{folder} lies among the real scans of {self.dir}; choose another --out")


@dataclass(frozen=True)
class Session:
    """One visit: the scan of each modality of the scenario. The name is empty where the layout does not name visits."""

    name: str
    paths: Mapping[str, Path]


@dataclass(frozen=True)
class Subject:
    """One person with all visits: the unit of privacy and of splitting."""

    id: str
    site: str
    sessions: tuple[Session, ...]


@dataclass(frozen=True)
class Discovery:
    """What a data folder holds for one scenario, and what was left out."""

    subjects: tuple[Subject, ...]  # by id; each has at least one session
    everybody: frozenset[str]  # ids of all who have a scan in the folder, whichever it is
    skipped: tuple[Skipped, ...]
    other_modalities: Mapping[str, int]  # scans outside of the scenario, by modality
    unmatched_rows: int  # rows of the site map that name nobody in the data folder
    notes: tuple[str, ...]  # what was decided about names and tables that the user should know

    @property
    def skips(self) -> str:
        """What was skipped, counted by reason with the first example; empty where nothing was."""
        return _reasons(self.skipped) if self.skipped else ""

    def summary(self) -> str:
        """Subjects per site, then what was skipped, counted by reason with the first example. A few lines of text."""
        sites = Counter(subject.site for subject in self.subjects)
        per_site = ", ".join(f"{site} {count}" for site, count in sorted(sites.items()))
        lines = [f"{_count(len(self.subjects), 'subject')} at {_count(len(sites), 'site')}: {per_site}"]
        if self.skipped:
            lines.append(self.skips)
        if self.other_modalities:
            others = ", ".join(f"{modality} x{count}" for modality, count in sorted(self.other_modalities.items()))
            lines.append(f"scans not in the scenario: {others}")
        if self.unmatched_rows:
            lines.append(f"rows of the site map without scans: {self.unmatched_rows}")
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True)
class _Scan:
    path: Path
    subject: str
    session: str
    modality: str
    entities: tuple[str, ...]  # `acq-fast`, as in the name
    site: str | None  # where the name of the file tells

    def named_by(self, modalities: Iterable[str], neutral: frozenset[str]) -> Self:
        """The scan with its `full_modality`."""
        return replace(self, modality=full_modality(self.modality, self.entities, modalities, neutral=neutral))


def full_modality(name: str, entities: Sequence[str], asked: Iterable[str], *, neutral: frozenset[str]) -> str:
    """What a file of this name and these entities is: the one of the modalities that are asked for that says most of
    it, else its name with all entities that are not neutral."""
    told = telling(entities, neutral=neutral)
    fitting = [
        (len(chosen), modality)
        for modality, (its_name, chosen) in ((modality, modality_parts(modality)) for modality in asked)
        if its_name == name and chosen.issuperset(told) and chosen.issubset(entities)
    ]
    own = f"{name}[{'_'.join(told)}]" if told else name
    return max(fitting)[1] if fitting else own


def discover(scans: Scans, modalities: Sequence[str], *, least: int | None = None, of_model: bool = False) -> Discovery:
    """Find the subjects that have every one of these modalities, one scan each in a session, and their sites. With
    `least`, those that have so many of them: what a session lacks is not in its `paths`, and nobody may have it.

    A site is read from `scans.sites` if given, else from the file names (ixi), else from a site column of
    `participants.tsv` (bids, not with `scans.one_site`); otherwise all subjects are at the one site `site`. A scan
    whose name has an entity that changes what it shows, such as `ce-gadolinium`, is not of the plain modality:
    `T1w[ce-gadolinium]` chooses it.

    Args:
        of_model: whether they are a trained model's, so that no --scenario can be changed where they are not there.

    Raises:
        ConfigError: an unknown layout, an excluded subject that does not exist, nobody is left, a site file that cannot
            be read.
        DataError: no folder, no scans, another layout, a modality that no subject has, no complete session, a subject
            at two sites, no subject in the site map, one person under two names, two sites with almost one name.
    """
    if scans.layout not in LAYOUTS:
        raise ConfigError(f"unknown layout '{scans.layout}'; pass --layout {', '.join(LAYOUTS)}")
    layout = LAYOUTS[scans.layout]
    found, skipped = _find_scans(scans)
    used, excluded = _exclude(found, scans)
    used = [scan.named_by(modalities, layout.neutral) for scan in used]
    there = {scan.modality for scan in used} & {*modalities}
    if least is None or len(there) < least:
        _check_modalities(used, modalities, data_dir=scans.dir, of_model=of_model)
    site_map, notes = _site_map(scans, layout, like=min(scan.subject for scan in found))
    if site_map:
        _check_persons(site_map, used, data_dir=scans.dir)
    subjects, incomplete = _subjects(used, modalities, site_map, least=len(modalities) if least is None else least)
    skipped += [*excluded, *incomplete, *(site_map.unread if site_map else ())]
    if not subjects:
        other = "give another folder" if of_model else "change --scenario, --sites or data.exclude"
        raise ApartError(
            f"no subject in {scans.dir} can be used for {', '.join(modalities)}; {_reasons(skipped)}. "
            f"Complete the data, or {other}"
        )
    _check_site_names(subjects)
    return Discovery(
        subjects=tuple(subjects),
        everybody=frozenset(scan.subject for scan in found),
        skipped=tuple(skipped),
        other_modalities=Counter(scan.modality for scan in used if scan.modality not in modalities),
        unmatched_rows=site_map.rows_without({scan.subject for scan in found}) if site_map else 0,
        notes=(*notes, *_variants(used, modalities)),
    )


def held_by(subjects: Sequence[Subject], modalities: Sequence[str]) -> dict[str, int]:
    """{modality: subjects that have it}."""
    return {
        name: sum(any(name in session.paths for session in subject.sessions) for subject in subjects)
        for name in modalities
    }


def _subjects(
    scans: Iterable[_Scan], modalities: Sequence[str], site_map: SiteMap | None, *, least: int
) -> tuple[list[Subject], list[Skipped]]:
    """The subjects with a site and a session of at least so many modalities, by id, and why the others are left out."""
    by_subject: dict[str, list[_Scan]] = defaultdict(list)
    for scan in scans:
        by_subject[scan.subject].append(scan)
    in_rows = frozenset[str]().union(*(site_map.rows if site_map else ()))
    subjects: list[Subject] = []
    skipped: list[Skipped] = []
    for subject_id, its_scans in sorted(by_subject.items()):
        site = _site(its_scans, site_map)
        if site is None:
            lacking = "no site in its row of" if subject_id in in_rows else "not in"
            skipped.append(Skipped(subject_id, f"{lacking} the site map {site_map.path if site_map else ''}"))
            continue
        sessions, incomplete = _sessions(its_scans, modalities, least=least)
        skipped += incomplete
        if sessions:
            subjects.append(Subject(subject_id, site, sessions))
    return subjects, skipped


def _find_scans(scans: Scans) -> tuple[list[_Scan], list[Skipped]]:
    data_dir, layout = scans.dir, LAYOUTS[scans.layout]
    files, skipped = scan_files(data_dir)
    found: list[_Scan] = []
    for name in files:
        path, match = data_dir / name, layout.scan.fullmatch(name)
        if match is None:
            skipped.append(Skipped(name, f"not named like {layout.example}"))
        elif not os.path.isfile(path):  # `Path.is_file` raises where a folder is closed
            skipped.append(Skipped(name, "not a file (a link to nothing, or a folder that this user cannot enter?)"))
        elif match["modality"] not in _LABELS:
            groups = match.groupdict()
            modality = layout.modalities.get(groups["modality"], groups["modality"])
            entities = tuple((groups.get("entities") or "").split("_")[1:])
            session = groups.get("session") or ""
            found.append(_Scan(path, groups["subject"], session, modality, entities, groups.get("site")))
    if not found:
        fitting = [name for name, other in LAYOUTS.items() if any(map(other.scan.fullmatch, files))]
        if fitting and scans.layout not in fitting:
            raise DataError(f"{data_dir} is not in the {scans.layout} layout; its names fit --layout {fitting[0]}")
        raise DataError(
            f"{data_dir} has no scan of the {scans.layout} layout up to {MAX_DEPTH} folders deep: "
            f"{_count(len(files), 'NIfTI file')}{f', such as {files[0]}' if files else ''}; "
            f"expected are names like {layout.example}. Check --data and --layout"
            f"{f'; {_reasons(skipped)}' if skipped else ''}"
        )
    return found, skipped


def _exclude(found: Sequence[_Scan], scans: Scans) -> tuple[list[_Scan], list[Skipped]]:
    known, excluded = {scan.subject for scan in found}, sorted(set(scans.exclude))
    for subject_id in excluded:
        if subject_id not in known:
            raise ConfigError(
                f"data.exclude: there is no subject '{subject_id}' in {scans.dir}; "
                f"ids in the {scans.layout} layout look like {min(known)}"
            )
    kept = [scan for scan in found if scan.subject not in excluded]
    if not kept:
        raise ConfigError(f"data.exclude leaves nobody: it names all {_count(len(known), 'subject')} of {scans.dir}")
    return kept, [Skipped(subject_id, "excluded by data.exclude") for subject_id in excluded]


def _check_modalities(scans: Iterable[_Scan], modalities: Sequence[str], *, data_dir: Path, of_model: bool) -> None:
    subjects: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        subjects[scan.modality].add(scan.subject)
    absent = [modality for modality in modalities if modality not in subjects]
    if not absent:
        return
    available = ", ".join(f"{modality} ({_count(len(have), 'subject')})" for modality, have in sorted(subjects.items()))
    named = [
        (there, modality)
        for modality in absent
        for there in sorted(subjects)
        if there.lower() == modality.lower() or any({there.lower(), modality.lower()} <= s for s in _SAME_CONTRAST)
    ]
    if of_model:
        its = ", ".join(f"{modality} what is {there} here" for there, modality in named)
        what = f"calls {its}" if its else f"is of {', '.join(modalities)}"
        advice = f"The model {what}: give a folder with these names"
    else:
        its = ", ".join(f"write {there} for {modality}" for there, modality in named)
        advice = f"Change --scenario{f': {its}' if its else ' to modalities of that list'}"
    raise AbsentError(f"no subject in {data_dir} has {', '.join(absent)}; there is {available or 'nothing'}. {advice}")


def _site_map(scans: Scans, layout: Layout, *, like: str) -> tuple[SiteMap | None, list[str]]:
    """The table of sites, if there is one, and what the user should know of it. `like` is a subject of the folder."""
    sites, participants = scans.sites, scans.dir / "participants.tsv"
    may_tell = scans.layout == "bids" and not scans.one_site
    if sites is None and may_tell and (participants.exists() or participants.is_symlink()):
        titles = columns(participants)
        if not titles.site:
            note = f"participants.tsv has no column that gives the site ({', '.join(map(shown, titles.all))}), so all"
            return None, [f"{note} subjects are at one site; call that column site, or pass a table with --sites"]
        sites = participants
    if sites is None:
        return None, []

    def subject_of(cell: str) -> str | None:
        match = layout.visit.fullmatch(cell)
        return match["subject"] if match else None

    site_map = read_site_map(sites, subject_of=subject_of, like=like)
    return site_map, [*site_map.notes]


def _check_persons(site_map: SiteMap, scans: Iterable[_Scan], *, data_dir: Path) -> None:
    """Raise DataError where one row, and so one person, is two subjects of the folder: one might train, one test."""
    present = {scan.subject for scan in scans}
    persons = [sorted(row & present) for row in site_map.rows]
    if several := [names for names in persons if len(names) > 1]:
        left_out = sorted({name for names in several for name in names[1:]})
        raise DataError(
            f"{' and '.join(several[0])} in {data_dir} are one person, because one row of {site_map.path} names them "
            f"({_count(len(several), 'such row')}): keep one name of each in the folder, or leave the others out with "
            f"data.exclude=[{','.join(left_out[:3])}{',...' if len(left_out) > 3 else ''}]"
        )


def _check_site_names(subjects: Iterable[Subject]) -> None:
    """Raise DataError where two sites differ in upper and lower case alone: on some disks they share their files."""
    names: dict[str, str] = {}
    for site in sorted({subject.site for subject in subjects}):
        if (other := names.setdefault(site.casefold(), site)) != site:
            raise DataError(f"the sites {other} and {site} differ in upper and lower case only; write one name alike")


def _variants(scans: Iterable[_Scan], modalities: Iterable[str]) -> list[str]:
    """A line for each modality whose scans were acquired in several ways (BIDS: acq), as far as their names tell."""
    notes = []
    for modality in modalities:
        ways = Counter(
            "_".join(e for e in scan.entities if not e.startswith(("run-", "part-"))) or "plain"
            for scan in scans
            if scan.modality == modality
        )
        if len(ways) > 1:
            listed = ", ".join(f"{way} x{count}" for way, count in sorted(ways.items()))
            example = f"{modality_parts(modality)[0]}[{max(ways.keys() - {'plain'})}]"
            notes.append(f"{modality} was acquired in several ways: {listed}; to use one of them, write {example}")
    return notes


def _site(scans: Sequence[_Scan], site_map: SiteMap | None) -> str | None:
    """The one site of a subject; None if a site map does not name the subject."""
    path_at = {scan.site: scan.path for scan in scans}
    if len(path_at) > 1:
        first, second = sorted(path_at.values())[:2]
        raise DataError(
            f"subject {scans[0].subject} is at two sites: {first} and {second}. A person belongs to one site: "
            f"correct the name, or leave the subject out with data.exclude=[{scans[0].subject}]"
        )
    return site_map.sites.get(scans[0].subject) if site_map else scans[0].site or SINGLE_SITE


def _sessions(
    scans: Iterable[_Scan], modalities: Sequence[str], *, least: int
) -> tuple[tuple[Session, ...], list[Skipped]]:
    """The visits of one subject with at least so many modalities, and why others, or scans in them, are not used."""
    visits: dict[str, list[_Scan]] = defaultdict(list)
    for scan in scans:
        visits[scan.session].append(scan)
    sessions, skipped = [], []
    for name, its_scans in sorted(visits.items()):
        paths = {modality: [scan.path for scan in its_scans if scan.modality == modality] for modality in modalities}
        place = f"{its_scans[0].subject} {name}".strip()
        missing = [modality for modality in modalities if not paths[modality]]
        several = [modality for modality in modalities if len({path.resolve() for path in paths[modality]}) > 1]
        if len(modalities) - len(missing) < least:
            skipped.append(Skipped(place, f"no {', '.join(missing)}"))
            continue
        if several:
            names = ", ".join(map(str, paths[several[0]]))
            skipped.append(Skipped(f"{place}: {names}", f"several {several[0]} in one session"))
        held = [modality for modality in modalities if modality not in {*missing, *several}]
        if len(held) >= least:
            # of a file and links to it, the file
            one = {modality: min(paths[modality], key=lambda path: (path.is_symlink(), path)) for modality in held}
            sessions.append(Session(name, one))
    return tuple(sessions), skipped


def _reasons(skipped: Sequence[Skipped]) -> str:
    places: dict[str, list[str]] = defaultdict(list)
    for item in skipped:
        places[item.reason].append(item.place)
    reasons = (f"{reason} x{len(where)} (first: {where[0]})" for reason, where in sorted(places.items()))
    return f"skipped {len(skipped)}: {'; '.join(reasons)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
