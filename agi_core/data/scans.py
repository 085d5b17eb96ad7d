"""Discover: find the scans of a data folder by their names, in the layouts of IXI, BraTS and BIDS.

ixi     `IXI012-HH-1211-T1.nii.gz` (or `..._T1.nii.gz`), flat or in folders; `IXI012` is the person, `HH` the hospital.
brats   `BraTS-GLI-00000-000-t1n.nii.gz` (2023 on), `BraTS2021_00000_t1ce.nii.gz`, `BraTS20_Training_001_flair.nii.gz`,
        `FeTS2022_00000_t1ce.nii.gz`, in any folders. Modalities have the names of 2023: t1n, t1c, t2w, t2f.
bids    `sub-01/[ses-1/]anat/sub-01_[ses-1_]T1w.nii.gz`; the modality is the suffix.

Files are found up to three folders deep and are not opened. What cannot be used is listed with its reason.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from agi_core.data.site_map import SiteMap, has_site_column, read_site_map
from agi_core.errors import ConfigError, DataError

Layout = Literal["ixi", "brats", "bids"]

SINGLE_SITE = "site"  # where neither names nor a table tell the hospitals apart
_MAX_DEPTH = 3  # folders between the data folder and a scan


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
class Skipped:
    """A file, visit or subject that is left out. Reasons are the same text for the same cause, so that they count."""

    place: str
    reason: str


@dataclass(frozen=True)
class Discovery:
    """What a data folder holds for one scenario, and what was left out."""

    data_dir: Path
    layout: Layout
    subjects: tuple[Subject, ...]  # by id; each has at least one complete session
    skipped: tuple[Skipped, ...]
    other_modalities: Mapping[str, int]  # scans outside of the scenario, by modality
    unmatched_rows: int  # rows of the site map that name nobody in the data folder

    def summary(self) -> str:
        """Subjects per site, then what was skipped, counted by reason with the first example. A few lines of text."""
        sites = Counter(subject.site for subject in self.subjects)
        per_site = ", ".join(f"{site} {count}" for site, count in sorted(sites.items()))
        lines = [f"{_count(len(self.subjects), 'subject')} at {_count(len(sites), 'site')}: {per_site}"]
        if self.skipped:
            lines.append(_reasons(self.skipped))
        if self.other_modalities:
            others = ", ".join(f"{modality} x{count}" for modality, count in sorted(self.other_modalities.items()))
            lines.append(f"scans not in the scenario: {others}")
        if self.unmatched_rows:
            lines.append(f"rows of the site map without scans: {self.unmatched_rows}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Names:
    """How one layout names things. `scan` matches the path below the data folder, `visit` a name in a table."""

    example: str
    scan: re.Pattern[str]  # groups: subject, modality; optional: session, site
    visit: re.Pattern[str]  # group: subject


_FOLDERS, _NIFTI = r"(?:[^/]+/)*", r"\.nii(?:\.gz)?"
_IXI = r"(?P<subject>IXI\d+)"
_BRATS = r"(?P<subject>(?:BraTS-[A-Za-z]+|(?:BraTS|FeTS)\d+(?:_[A-Za-z]+)?)[-_]\d+)(?:-(?P<session>\d{3}))?"
_BIDS = r"(?P<subject>sub-[A-Za-z0-9]+)"

_NAMES: Mapping[Layout, _Names] = {
    "ixi": _Names(
        "IXI012-HH-1211-T1.nii.gz",
        # DTI comes as one file per direction (DTI-00, DTI-01, ...): one modality
        re.compile(
            rf"{_FOLDERS}{_IXI}-(?P<site>[A-Za-z]+)-(?P<session>\d+)[-_](?P<modality>[A-Za-z0-9]+)(-\d+)?{_NIFTI}"
        ),
        re.compile(rf"{_IXI}(?:-[A-Za-z]+-\d+)?"),
    ),
    "brats": _Names(
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz or BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz",
        re.compile(rf"{_FOLDERS}{_BRATS}[-_](?P<modality>[a-z][a-z0-9]*){_NIFTI}"),
        re.compile(_BRATS),
    ),
    "bids": _Names(
        "sub-01/anat/sub-01_T1w.nii.gz",
        re.compile(
            rf"{_BIDS}/(?:(?P<session>ses-[A-Za-z0-9]+)/)?anat/(?P=subject)(?(session)_(?P=session))"
            rf"(?:_[a-z]+-[A-Za-z0-9]+)*_(?P<modality>[A-Za-z0-9]+){_NIFTI}"
        ),
        re.compile(rf"{_BIDS}(?:_ses-[A-Za-z0-9]+)?"),
    ),
}
_BRATS_MODALITIES = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}  # 2020 to 2022 -> 2023
_LABELS = {"seg"}  # drawn, not scanned
_SAME_CONTRAST = ({"t1", "t1n", "t1w"}, {"t1c", "t1ce"}, {"t2", "t2w"}, {"pd", "pdw"}, {"flair", "t2f"})  # for advice


@dataclass(frozen=True)
class _Scan:
    path: Path
    subject: str
    session: str
    modality: str
    site: str | None  # where the name of the file tells


def discover(
    data_dir: Path,
    *,
    layout: Layout,
    modalities: Sequence[str],
    sites_file: Path | None = None,
    exclude: Sequence[str] = (),
) -> Discovery:
    """Find the subjects that have every modality of a scenario, and their sites.

    A site is read from `sites_file` if given, else from the file names (ixi), else from a site column of
    `participants.tsv` (bids); otherwise all subjects are at the one site `site`.

    Args:
        data_dir: the folder with the scans.
        layout: how files and folders are named, see the head of this module.
        modalities: names of the modalities that a session must have, one scan each.
        sites_file: a table of sites, see `site_map`.
        exclude: ids of subjects to leave out.

    Raises:
        ConfigError: an unknown layout, an excluded subject that does not exist, a site file that cannot be read.
        DataError: no folder, no scans, another layout, a modality that no subject has, no complete session, a subject
            at two sites, no subject in the site map.
    """
    if layout not in _NAMES:
        raise ConfigError(f"unknown layout '{layout}'; pass --layout {', '.join(get_args(Layout))}")
    scans, skipped = _find_scans(data_dir, layout)
    known = {scan.subject for scan in scans}
    scans, excluded = _exclude(scans, exclude, data_dir=data_dir, layout=layout)
    _check_modalities(scans, modalities, data_dir=data_dir)
    site_map = _site_map(data_dir, layout=layout, sites_file=sites_file)
    skipped += excluded

    by_subject: dict[str, list[_Scan]] = defaultdict(list)
    for scan in scans:
        by_subject[scan.subject].append(scan)
    subjects: list[Subject] = []
    for subject_id, its_scans in sorted(by_subject.items()):
        site = _site(its_scans, site_map)
        if site is None:
            skipped.append(Skipped(subject_id, f"not in the site map {site_map.path if site_map else ''}"))
            continue
        sessions, incomplete = _sessions(its_scans, modalities)
        skipped += incomplete
        if sessions:
            subjects.append(Subject(subject_id, site, sessions))

    discovery = Discovery(
        data_dir=data_dir,
        layout=layout,
        subjects=tuple(subjects),
        skipped=tuple(skipped),
        other_modalities=Counter(scan.modality for scan in scans if scan.modality not in modalities),
        unmatched_rows=site_map.rows_without(known) if site_map else 0,
    )
    if not subjects:
        raise DataError(
            f"no subject in {data_dir} can be used for {', '.join(modalities)}; {_reasons(skipped)}. "
            "Complete the data, or change --scenario, --sites or data.exclude"
        )
    return discovery


def _find_scans(data_dir: Path, layout: Layout) -> tuple[list[_Scan], list[Skipped]]:
    files = _nifti_files(data_dir)
    scans: list[_Scan] = []
    skipped: list[Skipped] = []
    for name in files:
        path, match = data_dir / name, _NAMES[layout].scan.fullmatch(name)
        if match is None:
            skipped.append(Skipped(name, f"not named like {_NAMES[layout].example}"))
        elif not path.is_file():
            skipped.append(Skipped(name, "not a file (a link to nothing?)"))
        elif match["modality"] not in _LABELS:
            groups = match.groupdict()
            modality = groups["modality"]
            if layout == "brats":
                modality = _BRATS_MODALITIES.get(modality, modality)
            scans.append(_Scan(path, groups["subject"], groups["session"] or "", modality, groups.get("site")))
    if not scans:
        fitting = [name for name, names in _NAMES.items() if any(map(names.scan.fullmatch, files))]
        if fitting and layout not in fitting:
            raise DataError(f"{data_dir} is not in the {layout} layout; its names fit --layout {fitting[0]}")
        raise DataError(
            f"{data_dir} has no scan of the {layout} layout up to {_MAX_DEPTH} folders deep: "
            f"{_count(len(files), 'NIfTI file')}{f', such as {files[0]}' if files else ''}; "
            f"expected are names like {_NAMES[layout].example}. Check --data and --layout"
        )
    return scans, skipped


def _nifti_files(data_dir: Path) -> list[str]:
    """Paths of the NIfTI files below `data_dir`, relative to it, with `/`, sorted."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}; check --data") from error

    found = []
    for folder, subfolders, files in os.walk(data_dir, followlinks=True, onerror=refuse):
        below = Path(folder).relative_to(data_dir)
        if len(below.parts) == _MAX_DEPTH:
            subfolders.clear()
        found += [(below / name).as_posix() for name in files if name.endswith((".nii", ".nii.gz"))]
    return sorted(found)


def _exclude(
    scans: Iterable[_Scan], exclude: Iterable[str], *, data_dir: Path, layout: Layout
) -> tuple[list[_Scan], list[Skipped]]:
    known, excluded = {scan.subject for scan in scans}, sorted(set(exclude))
    for subject_id in excluded:
        if subject_id not in known:
            raise ConfigError(
                f"data.exclude: there is no subject '{subject_id}' in {data_dir}; "
                f"ids in the {layout} layout look like {min(known)}"
            )
    kept = [scan for scan in scans if scan.subject not in excluded]
    return kept, [Skipped(subject_id, "excluded by data.exclude") for subject_id in excluded]


def _check_modalities(scans: Iterable[_Scan], modalities: Iterable[str], *, data_dir: Path) -> None:
    subjects: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        subjects[scan.modality].add(scan.subject)
    absent = [modality for modality in modalities if modality not in subjects]
    if not absent:
        return
    available = ", ".join(f"{modality} ({_count(len(have), 'subject')})" for modality, have in sorted(subjects.items()))
    advice = [
        f"write {there} for {modality}"
        for modality in absent
        for there in sorted(subjects)
        if there.lower() == modality.lower() or any({there.lower(), modality.lower()} <= s for s in _SAME_CONTRAST)
    ]
    raise DataError(
        f"no subject in {data_dir} has {', '.join(absent)}; there is {available or 'nothing'}. "
        f"Change --scenario{': ' + ', '.join(advice) if advice else ' to modalities of that list'}"
    )


def _site_map(data_dir: Path, *, layout: Layout, sites_file: Path | None) -> SiteMap | None:
    participants = data_dir / "participants.tsv"
    if sites_file is None and layout == "bids" and participants.is_file() and has_site_column(participants):
        sites_file = participants
    if sites_file is None:
        return None

    def subject_of(cell: str) -> str | None:
        match = _NAMES[layout].visit.fullmatch(cell)
        return match["subject"] if match else None

    return read_site_map(sites_file, subject_of=subject_of)


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


def _sessions(scans: Iterable[_Scan], modalities: Sequence[str]) -> tuple[tuple[Session, ...], list[Skipped]]:
    """The complete visits of one subject, and why the others are not."""
    visits: dict[str, list[_Scan]] = defaultdict(list)
    for scan in scans:
        visits[scan.session].append(scan)
    sessions, skipped = [], []
    for name, its_scans in sorted(visits.items()):
        paths = {modality: [scan.path for scan in its_scans if scan.modality == modality] for modality in modalities}
        place = f"{its_scans[0].subject} {name}".strip()
        missing = [modality for modality in modalities if not paths[modality]]
        several = [modality for modality in modalities if len(paths[modality]) > 1]
        if missing:
            skipped.append(Skipped(place, f"no {', '.join(missing)}"))
        elif several:
            names = ", ".join(map(str, paths[several[0]]))
            skipped.append(Skipped(f"{place}: {names}", f"several {several[0]} in one session"))
        else:
            sessions.append(Session(name, {modality: paths[modality][0] for modality in modalities}))
    return tuple(sessions), skipped


def _reasons(skipped: Sequence[Skipped]) -> str:
    places: dict[str, list[str]] = defaultdict(list)
    for item in skipped:
        places[item.reason].append(item.place)
    reasons = (f"{reason} x{len(where)} (first: {where[0]})" for reason, where in sorted(places.items()))
    return f"skipped {len(skipped)}: {'; '.join(reasons)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
