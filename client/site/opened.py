"""A site, opened: its file is read once, and so are the subjects and the prepared scans of each task.

A runner lives for days and answers many requests of one task; a simulation holds many sites that share one folder of
scans. Whoever needs a site's data asks here, and nothing is read twice.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from agi_core.config.schema import Task
from agi_core.data.cache_quota import cached_bytes, drop_oldest
from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import TrainingSlices
from agi_core.data.fingerprint import fingerprints
from agi_core.data.partition import stable_order
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Discovery, Scans, Subject, discover
from agi_core.errors import AbsentError, ApartError, DataError, NoneHeldError, NotHeldError
from agi_core.host.device import open_device
from agi_core.network import Network
from agi_core.readout import readout_statistics
from agi_core.ridge import Statistics
from agi_core.run import progress
from agi_core.scenario import parse_scenario
from client.site.file import DeployedSite, Site, edit_stamp, read_site
from client.site.images import Images, images_of
from client.site.split import lasting_split, misspelt, renamed
from client.site.told import digest_of

MOST_SITES = 4096  # of one simulation
KEPT_TASKS = 4  # of each site: a runner that lives for days meets one after another
log = logging.getLogger("client")


@dataclass(frozen=True)
class SiteSubjects:
    """A site's subjects by use; `all` in stable order. `known_as` is {subject id: the name that it was first known by},
    and `images` are those of a deployed site's scans."""

    train: tuple[Subject, ...]
    validation: tuple[Subject, ...]
    test: tuple[Subject, ...]
    all: tuple[Subject, ...]
    known_as: Mapping[str, str]
    images: Images

    def identities(self, subjects: Iterable[Subject]) -> list[str]:
        """All that these subjects are known by: names and images."""
        return [
            identity
            for subject in subjects
            for identity in (subject.id, self.known_as[subject.id], *self.images[subject.id])
        ]


def divide(state_dir: Path, subjects: Sequence[Subject], images: Images, *, tests: Sequence[str]) -> SiteSubjects:
    """These subjects in the parts that they have for good; see `lasting_split`. No two of them share an image."""
    split, known = lasting_split(state_dir, images, tests=tests)
    if sentence := renamed(known):
        log.warning("%s", sentence)
    by_id = {subject.id: subject for subject in subjects}
    train, validation, test = (
        tuple(by_id[subject_id] for subject_id in part) for part in (split.train, split.validation, split.test)
    )
    return SiteSubjects(train, validation, test, tuple(subjects), known, images)


class SiteScans:
    """A site's scans as one task needs them. Each property is read when it is first asked for, and then kept.

    Raises, when a property is read:
        DataError: no subject has one of the modalities, one whom the site file names is not there, one image is that of
            two subjects, or a scan is unusable.
        NotHeldError: the site does not offer a modality of the task, or has each of them and nobody has them all, or
            nobody who trains; but a private site then goes on with nobody.
        RunError: the cache or the split cannot be written.
    """

    def __init__(self, file: Site, task: Task) -> None:
        self._file, self._task = file, task
        self._entries: set[Path] = set()  # of the cache, that are in use here

    @cached_property
    def subjects(self) -> SiteSubjects:
        """The subjects with all modalities of the task's scenario, each in the part that it was given for good. Nobody
        trains under one name and tests under another: a deployed site knows its subjects by their images."""
        file, state_dir = self._file, Path(self._file.state_dir)
        listed, offered = file.data.subjects, file.data.modalities
        if offered is not None and (lacking := {*parse_scenario(self._task.scenario).modalities} - {*offered}):
            raise NotHeldError(
                f"site {file.site} does not offer {', '.join(sorted(lacking))} (data.modalities:"
                f" {', '.join(offered)}), and {self._task.scenario} needs it"
            )
        try:
            found = self._found
        except AbsentError as error:
            if offered is not None and self._private:
                log.warning("noise alone is told: %s", error)
                return SiteSubjects((), (), (), (), {}, {})
            if offered is not None:
                raise NoneHeldError(
                    f"site {file.site} offers {', '.join(offered)} (data.modalities), but {error}"
                ) from None
            if isinstance(error, ApartError):
                raise NoneHeldError(f"site {file.site}: {error}") from None
            raise
        by_id = {subject.id: subject for subject in found.subjects}
        if offered is not None and listed is not None:
            listed = tuple(subject_id for subject_id in listed if subject_id in by_id)
        chosen = stable_order(by_id if listed is None else listed)
        absent = [subject_id for subject_id in chosen if subject_id not in by_id]
        if absent or not chosen:
            raise DataError(
                f"site {file.site}: {', '.join(absent) or 'every subject'} is missing in {file.data.dir};"
                f" {found.summary()}"
            )
        everybody = [by_id[subject_id] for subject_id in chosen]
        if unknown := misspelt(state_dir, file.data.test_subjects, everybody=found.everybody):
            raise DataError(
                f"site {file.site}: data.test_subjects names {', '.join(unknown)}, and nobody in {file.data.dir} is"
                " called so; correct it first: whoever has trained cannot be tested any more"
            )
        if isinstance(file, DeployedSite):
            images = images_of(state_dir, everybody, site=file.site)
        else:  # a simulation has compared the images, and its scans stay as they are
            images = {subject_id: [] for subject_id in fingerprints(everybody)}
        return divide(state_dir, everybody, images, tests=file.data.test_subjects)

    @property
    def outdated(self) -> bool:
        """Whether somebody came or went since the subjects were read, or a prepared scan was dropped."""
        if "_found" not in vars(self):
            return False
        if not all(path.exists() for path in self._entries):
            return True
        try:
            return _discover.__wrapped__(self._file.data.scans, self._task).subjects != self._found.subjects
        except DataError:
            return True

    @cached_property
    def training(self) -> TrainingSlices:
        """Slices of the training subjects; the first call builds the cache. Raises NoneHeldError: all who have the
        modalities validate or test; a private site then has none."""
        if not (self.subjects.train or self._private):
            raise NoneHeldError(
                f"site {self._file.site}: of {len(self.subjects.all)} with all of {self._task.scenario}, nobody trains:"
                " they validate or test"
            )
        return TrainingSlices.of(self._task, self._open(self.subjects.train, whole=False))

    @property
    def training_digest(self) -> str:
        """Of the set of subjects that are trained on; see `client.site.told`."""
        trained_on = {*self.training.subjects}
        subjects = [subject for subject in self.subjects.train if subject.id in trained_on]
        return digest_of(subjects, known_as=self.subjects.known_as)

    @cached_property
    def prior_statistics(self) -> dict[str, Statistics]:
        """Of each training subject, of the features of the task's prior; they depend on no weights, and in a private
        run on no other subject."""
        network = Network(self._task, device=open_device(self._file.device, threads=self._file.threads))
        sessions, private = self.training.sessions, self._task.privacy.on
        return readout_statistics(network, sessions, prior_alone=True, independent=private)

    @cached_property
    def validation(self) -> Sequence[CachedSession]:
        """Whole sessions of the validation subjects."""
        return self._open(self.subjects.validation, whole=True)

    @cached_property
    def test(self) -> Sequence[CachedSession]:
        """Whole sessions of the test subjects."""
        return self._open(self.subjects.test, whole=True)

    @cached_property
    def everybody(self) -> Sequence[CachedSession]:
        """Whole sessions of at most `evaluation.max_subjects` of all subjects, for a site that does not train."""
        return self._open(self.subjects.all[: self._task.evaluation.max_subjects], whole=True)

    def preparation(self, *, whole: bool) -> Preparation:
        """How this site prepares its scans for the task."""
        cache_dir, quota = Path(self._file.cache_dir), self._file.cache_bytes
        most = None if quota is None else quota - cached_bytes(self._entries)
        return Preparation.of(
            self._task,
            self._file.data.scans,
            cache_dir=cache_dir,
            whole=whole,
            threads=self._file.threads,
            most_bytes=most,
        )

    @property
    def _private(self) -> bool:
        """Whether what leaves is noised as if there were somebody. That a site offers a modality is public; that the
        last who has it is gone is not."""
        return self._task.privacy.on and self._file.privacy is not None

    @cached_property
    def _found(self) -> Discovery:
        return _discover(self._file.data.scans, self._task)

    def _open(self, subjects: Sequence[Subject], *, whole: bool) -> Sequence[CachedSession]:
        def on_session(done: int, total: int) -> None:
            progress.report(progress.Step("reading scans", self._file.site, done, total))

        sessions = self.preparation(whole=whole).open(subjects, on_session=on_session)
        self._entries.update(session.path for session in sessions)
        if (quota := self._file.cache_bytes) is not None:
            dropped = drop_oldest(Path(self._file.cache_dir), most_bytes=quota, keep=self._entries)
            if dropped:
                log.warning("cache_gb: %d prepared scans were dropped, those that were not used for longest", dropped)
        return sessions


class OpenSite:
    """A site file as it was read, and the scans of the newest tasks."""

    def __init__(self, file: Site) -> None:
        self.file = file
        self._scans: dict[Task, SiteScans] = {}

    def scans(self, task: Task) -> SiteScans:
        """The site's scans for a task, opened once."""
        if task not in self._scans:
            while len(self._scans) >= KEPT_TASKS:
                del self._scans[next(iter(self._scans))]
            self._scans[task] = SiteScans(self.file, task)
        return self._scans[task]

    def forget_outdated(self) -> None:
        """Open the scans of a task anew where subjects came or went: who was withdrawn is not trained on again."""
        outdated = [task for task, scans in self._scans.items() if scans.outdated]
        for task in outdated:
            del self._scans[task]
        if outdated:
            _discover.cache_clear()


def open_site(path: Path) -> OpenSite:
    """The site of the file at `path`. It is read again only after it has changed, so an edited policy holds at once. So
    does a change in a deployed site's folder of scans; a simulation's scans stay as they are.

    Raises:
        ConfigError: the file is missing or unreadable, or a setting is unknown, missing or out of range.
    """
    site = _opened(path, edit_stamp(path))
    if isinstance(site.file, DeployedSite):
        site.forget_outdated()
    return site


@lru_cache(maxsize=MOST_SITES)
def _opened(path: Path, _stamp: object) -> OpenSite:
    return OpenSite(read_site(path))


@lru_cache(maxsize=2)
def _discover(scans: Scans, task: Task) -> Discovery:
    """Who is in a folder: looked up once for all sites that share it, and anew for each task."""
    return discover(scans, parse_scenario(task.scenario).modalities)
