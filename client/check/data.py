"""Every scan of the site, before anything is trained on it: all broken ones are named, not only the first."""

import contextlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from agi_core.cells import is_vocabulary, parse_vocabulary, wanted
from agi_core.config.schema import Task
from agi_core.data.fingerprint import content_fingerprint, image_fingerprint
from agi_core.data.header import Grid
from agi_core.data.nifti import Volume, read_content, read_volume
from agi_core.data.partition import Split, split_subjects
from agi_core.data.preparation import Preparation, check_disk
from agi_core.data.preprocess import align, session_doubts
from agi_core.data.scans import Discovery, Session, Subject, discover, held_by
from agi_core.errors import AgiError, DataError, RunError
from agi_core.run import progress
from agi_core.scenario import parse_scenario
from agi_core.scoring.tissue import unusable_segmentations
from client.check.doubts import UNUSABLE, DoubtedScan, rows_of
from client.check.rows import CheckRow, CheckState, failed, passed, warning
from client.site.file import DeployedSite
from client.site.images import Images, remember
from client.site.split import known_as, misspelt, renamed


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What is known of one readable scan: the fingerprints of its file and of its image."""

    subject: str
    path: Path
    modality: str
    grid: Grid
    content: str
    image: str


def check_data(
    site: DeployedSite, scenario: str
) -> Generator[CheckRow, None, tuple[dict[str, Any], list[Subject], list[Scan]]]:
    """Rows about the scans of a scenario, or of a vocabulary. Each file is read once.

    The generator returns a summary, which stays at the site, the subjects that can be used, and all readable scans.
    """
    try:
        modalities, least = wanted(scenario)
        discovery = discover(site.data.scans, modalities, least=least)
    except AgiError as error:
        yield failed("scans", str(error), fix="correct data.dir, data.layout or --scenario")
        return {}, [], []
    listed = site.data.subjects
    subjects = [subject for subject in discovery.subjects if listed is None or subject.id in listed]
    yield from _found(discovery, listed)
    yield from _misspelt(site, discovery)
    if is_vocabulary(scenario) or site.data.modalities is not None:
        held = held_by(subjects, modalities)
        yield _offered(site, scenario, held, others=discovery.other_modalities)
        yield from _apart([name for name in site.data.modalities or () if held.get(name)], subjects)
    if is_vocabulary(scenario) and site.data.modalities is not None:
        subjects = [*_with_offered_scans(subjects, site.data.modalities)] or subjects  # a row above says what is wrong

    scans: list[Scan] = []
    doubted: list[DoubtedScan] = []
    broken: set[str] = set()
    for done, subject in enumerate(subjects, start=1):
        for session in subject.sessions:
            its_scans, its_doubted, rows = _check_session(subject, session)
            scans += its_scans
            doubted += its_doubted
            broken |= {subject.id for row in rows if row.state == CheckState.FAILED}
            yield from rows
        progress.report(progress.Step("reading scans", site.site, done, len(subjects)))
    good = [subject for subject in subjects if subject.id not in broken]
    if good:
        yield passed("scans", f"{len(good)} of {len(subjects)} subjects are readable and fit together")
    yield from rows_of(doubted)
    yield from _duplicates(scans)
    if bad := unusable_segmentations(site.data.scans, good):
        fix = "mend them, or nothing: the final test has figures of tumours only where all test subjects have one"
        yield warning("segmentations", f"{len(bad)} cannot be used (first: {bad[0]})", fix=fix)
    yield _enough(len(good), site.policy.minimum_subjects)
    yield from _names(Path(site.state_dir), images_of_scans(good, scans))
    yield _disk(site, good, scenario, {scan.path: scan for scan in scans})
    if Path(site.state_dir).is_dir():
        with contextlib.suppress(RunError):  # the row of the state folder says why; they are read again then
            remember(Path(site.state_dir), {scan.content: scan.image for scan in scans})
    summary = summarise(good, scans) | {"checked": len(subjects), "doubts": [asdict(scan) for scan in doubted]}
    return summary | {"left_out": [asdict(skipped) for skipped in discovery.skipped]}, good, scans


def _with_offered_scans(subjects: Sequence[Subject], offered: Sequence[str]) -> Iterator[Subject]:
    """Those who have two of the offered modalities, with the scans of these alone: no run reads others."""
    for subject in subjects:
        sessions = (
            replace(session, paths={name: path for name, path in session.paths.items() if name in offered})
            for session in subject.sessions
        )
        if complete := tuple(session for session in sessions if len(session.paths) > 1):
            yield replace(subject, sessions=complete)


def images_of_scans(subjects: Sequence[Subject], scans: Sequence[Scan]) -> Images:
    """The images of these subjects among the scans."""
    images: dict[str, list[str]] = {subject.id: [] for subject in subjects}
    for scan in scans:
        if scan.subject in images:
            images[scan.subject].append(scan.image)
    return images


def summarise(subjects: list[Subject], scans: list[Scan]) -> dict[str, Any]:
    """Subjects, sessions and, per modality, their scans with median spacing (mm) and voxel counts. Scans of others are
    left out."""
    by_modality: dict[str, list[Scan]] = defaultdict(list)
    theirs = {subject.id for subject in subjects}
    for scan in (scan for scan in scans if scan.subject in theirs):
        by_modality[scan.modality].append(scan)
    return {
        "subjects": len(subjects),
        "sessions": sum(len(subject.sessions) for subject in subjects),
        "modalities": {modality: _summarise_modality(its) for modality, its in by_modality.items()},
    }


def _summarise_modality(scans: list[Scan]) -> dict[str, Any]:
    voxels = [shape[0] * shape[1] * shape[2] for shape in (scan.grid.shape for scan in scans)]
    spacing = [statistics.median(axis) for axis in zip(*(scan.grid.spacing_mm for scan in scans), strict=True)]
    return {
        "scans": len(scans),
        "median_spacing_mm": [round(mm, 3) for mm in spacing],
        "voxels": {"minimum": min(voxels), "median": int(statistics.median(voxels)), "maximum": max(voxels)},
    }


def _found(discovery: Discovery, listed: Sequence[str] | None) -> Iterator[CheckRow]:
    known = {subject.id for subject in discovery.subjects}
    for subject_id in [subject_id for subject_id in listed or () if subject_id not in known]:
        yield failed("scans", f"data.subjects names {subject_id}, who is not there", fix="correct data.subjects")
    reasons = Counter(skipped.reason for skipped in discovery.skipped)
    first = {skipped.reason: skipped.place for skipped in reversed(discovery.skipped)}
    for reason, count in sorted(reasons.items()):
        yield warning(
            "scans",
            f"left out {count}: {reason} (first: {first[reason]})",
            fix="nothing to do if that is right; else complete or rename the files; check.json names all",
        )
    for note in discovery.notes:
        yield warning("scans", note, fix="nothing to do if that is right; else correct the table or the names")


def _misspelt(site: DeployedSite, discovery: Discovery) -> Iterator[CheckRow]:
    try:
        unknown = misspelt(Path(site.state_dir), site.data.test_subjects, everybody=discovery.everybody)
    except DataError:  # a row about the subjects says what is wrong with their split
        return
    for subject_id in unknown:
        fix = "correct it before the site trains: whoever has trained cannot be tested any more"
        yield failed("scans", f"data.test_subjects names {subject_id}, who is not there", fix=fix)


def _offered(site: DeployedSite, scenario: str, held: Mapping[str, int], *, others: Mapping[str, int]) -> CheckRow:
    """What the site offers, by how many subjects have each modality of the scenario, and scans of other modalities."""
    what, declared, minimum = "modalities", site.data.modalities, site.policy.minimum_subjects
    counts = ", ".join(f"{name} {count}" for name, count in held.items())
    if declared is None:
        many = [name for name, count in held.items() if count >= minimum]
        fix = f"write modalities: [{', '.join(many)}] under data in the site file, and tell the coordinator the same"
        if len(many) < 2:
            fix = "write under data in the site file what it shall offer, modalities: [...], two or more"
        found = f"{counts}; no data.modalities; of {minimum} subjects or more: {', '.join(many) or 'none'}"
        return warning(what, found, fix=fix)
    offered = ", ".join(declared)
    if absent := [name for name in declared if not held.get(name, others.get(name.partition("[")[0], 0))]:
        fix = "take it out of data.modalities in the site file, or correct the names of the files"
        return failed(what, f"data.modalities names {', '.join(absent)}, which no subject has ({counts})", fix=fix)
    usable = [name for name, count in held.items() if count and name in declared]
    if is_vocabulary(scenario) and len(usable) < 2:
        told = ", ".join(usable) or "none"
        found = f"data.modalities offers {told} of {', '.join(held)}; a site needs two to take part"
        fix = "add one to data.modalities in the site file, or check the study you were told"
        return failed(what, found, fix=fix)
    if not is_vocabulary(scenario) and (lacking := [name for name in held if name not in declared]):
        found = f"{scenario} needs {', '.join(lacking)}, and data.modalities offers {offered} alone"
        fix = "add it to data.modalities in the site file, or name the run's own scenario, such as --scenario T1,T2:any"
        return failed(what, found, fix=fix)
    return passed(what, f"{counts}; offered by data.modalities: {offered}")


def _apart(offered: Sequence[str], subjects: Sequence[Subject]) -> Iterator[CheckRow]:
    """Modalities that are offered, and that no visit has together: the smallest such sets."""
    visits = [{*session.paths} for subject in subjects for session in subject.sessions]
    apart: list[set[str]] = []
    for count in range(2, len(offered) + 1):
        for some in map(set, combinations(offered, count)):
            if not any(smaller <= some for smaller in apart) and not any(some <= visit for visit in visits):
                apart.append(some)
    if apart:
        sets = ", ".join(" with ".join(name for name in offered if name in some) for some in apart)
        found = f"offered, and no visit has {sets}: this site sits out of such cells"
        fix = "nothing to do if that is right; else complete the scans, or offer fewer"
        yield warning("modalities", found, fix=fix)


def _check_session(subject: Subject, session: Session) -> tuple[list[Scan], list[DoubtedScan], list[CheckRow]]:
    """Read each scan on its own, then put them on one grid as training does. The rows are about what is unusable."""
    fix = f"mend the file, or leave the subject out: exclude: [{subject.id}] under data"
    target = [*session.paths][-1]
    volumes: dict[str, Volume] = {}
    scans, rows, doubted = [], [], []

    def doubt(modality: str, cause: str, found: str) -> None:
        doubted.append(DoubtedScan(subject.id, modality, str(session.paths[modality]), cause, found))

    for modality, path in session.paths.items():
        try:
            content = read_content(path)
            volume = read_volume(path, content)
        except DataError as error:
            rows.append(failed(f"scan {subject.id} {modality}", str(error), fix=fix))
            doubt(modality, UNUSABLE, str(error))
            continue
        volumes[modality] = volume
        scans.append(
            Scan(
                subject=subject.id,
                path=path,
                modality=modality,
                grid=volume.grid,
                content=content_fingerprint(content),
                image=image_fingerprint(volume.data),
            )
        )
    doubts = session_doubts({modality: volume.grid for modality, volume in volumes.items()})
    if not rows:
        try:
            prepared = align(volumes, to=target, spacing_mm=None, place=f"subject {subject.id}")
            doubts += prepared.doubts
        except DataError as error:
            rows.append(failed(f"scan {subject.id}", str(error), fix=fix))
            doubt(target, UNUSABLE, str(error))
    for modality, odd in doubts:
        doubt(modality, odd.cause, odd.found)
    return scans, doubted, rows


def _duplicates(scans: list[Scan]) -> Iterator[CheckRow]:
    by_content: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        by_content[scan.image].append(scan)
    for same in by_content.values():
        if len({(scan.subject, scan.modality) for scan in same}) > 1:  # several visits may share a scan
            yield failed(
                "duplicates",
                f"{' and '.join(str(scan.path) for scan in same)} hold the same image",
                fix=f"keep one: a person counts once; exclude: [{max(scan.subject for scan in same)}] under data",
            )


def _names(state_dir: Path, images: Images) -> Iterator[CheckRow]:
    """Who has come under another name."""
    try:
        sentence = renamed(known_as(state_dir, images))
    except DataError as error:
        yield failed("subjects", str(error), fix="put split.json of the state folder back")
    else:
        if sentence:
            yield warning("subjects", sentence, fix="nothing to do if that is right; else look at the scans")


def _enough(subjects: int, minimum: int) -> CheckRow:
    if subjects < minimum:
        return warning(
            "number of subjects",
            f"{subjects} usable, and policy.minimum_subjects asks for {minimum}",
            fix="the site may join: it trains, and tells no figure; else add subjects. Only whoever answers for data"
            " protection at the site may lower policy.minimum_subjects",
        )
    return passed("number of subjects", f"{subjects} usable, at least {minimum} asked for by policy.minimum_subjects")


def _disk(site: DeployedSite, subjects: list[Subject], scenario: str, scans: Mapping[Path, Scan]) -> CheckRow:
    """Whether the disk holds the prepared scans of the scenario, or of all cells of the vocabulary, and the quota each
    part of them."""
    split = split_subjects((subject.id for subject in subjects), before=Split(test=site.data.test_subjects))
    cells = parse_vocabulary(scenario).cells if is_vocabulary(scenario) else [parse_scenario(scenario)]
    cache_dir, most, needed = Path(site.cache_dir), site.cache_bytes, []
    for cell in cells:
        parts: dict[bool, list[Subject]] = {False: [], True: []}  # by whether whole slices are kept
        for subject in subjects:
            if sessions := tuple(its for its in subject.sessions if {*cell.modalities} <= {*its.paths}):
                parts[subject.id not in split.train].append(replace(subject, sessions=sessions))
        task = Task(scenario=str(cell))
        needed += [
            (Preparation.of(task, site.data.scans, cache_dir=cache_dir, whole=whole, most_bytes=most), part)
            for whole, part in parts.items()
        ]
    try:
        check_disk(needed, fingerprint=lambda path: scans[path].content, read_grid=lambda path: scans[path].grid)
    except AgiError as error:
        return failed("disk", str(error), fix="free some space, move cache_dir to a larger disk, or raise cache_gb")
    return passed("disk", f"the prepared scans fit into {site.cache_dir}")
