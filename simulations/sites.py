"""From a folder of scans to sites: discover, partition, write one site file per client, and `splits.json`."""

import dataclasses
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agi_core.cells import is_vocabulary, parse_vocabulary
from agi_core.config.schema import RunConfig
from agi_core.data.datasets import spacing_warning
from agi_core.data.fingerprint import check_different, fingerprints
from agi_core.data.header import Doubt, Grid
from agi_core.data.nifti import read_grid
from agi_core.data.partition import Partition, Split, partition, split_subjects, stable_order
from agi_core.data.phantom.built_in import origin
from agi_core.data.phantom.truth import read_anatomies
from agi_core.data.preparation import Preparation, check_disk
from agi_core.data.preprocess import same_grid, session_doubts
from agi_core.data.scans import SINGLE_SITE, Discovery, Scans, Session, Subject, discover
from agi_core.errors import ConfigError, DataError, RunError
from agi_core.host import atomic
from agi_core.names import file_stem
from agi_core.run import progress
from agi_core.run.event_log import EventLog
from agi_core.run.events import DataFound, Warned
from agi_core.run.json_objects import read_json
from agi_core.scenario import Scenario, parse_scenario
from agi_core.scoring.tissue import files_of, unusable_segmentations
from agi_core.segmentation.visits import MODALITIES, SEG
from client.site.file import Site, SiteData, to_yaml
from client.site.policy import Policy, SitePrivacy
from server.aggregation import check_sites
from simulations.poses import measures_poses

KEPT_SEGMENTER = "segmenter.safetensors"  # in the run folder
_NO_TISSUE = "the site's final test has no figures of tumour and healthy tissue"
_NO_DICE = "their sites tell nothing of what the segmentation network finds"


@dataclass(frozen=True)
class WholeRun:
    """The run that a federation is a part of: itself, or that over a vocabulary, whose sites keep one split and one
    budget over all cells."""

    run_dir: Path
    config: RunConfig

    @property
    def tests(self) -> int:
        """How many models a site that trains privately may test."""
        cells = parse_vocabulary(self.config.scenario).cells if is_vocabulary(self.config.scenario) else ()
        return max(SitePrivacy.max_tests, len(cells))


Headers = Sequence[tuple[Session, Mapping[str, Grid]]]
"""The sessions of some subjects, each with the grid of every modality."""


@dataclass(frozen=True)
class Federation:
    """The simulated federation: subjects of every training and unseen site, what was found, and what the user should
    know. Warnings get into the report, so they name no scan; `doubted` does, and is for the terminal alone.
    `fingerprints` are those of the subjects that train or are scored; `tests` are only ever tested on. `splits` are of
    the training sites' subjects, and perhaps of more than `training` holds."""

    training: Mapping[str, tuple[Subject, ...]]
    unseen: Mapping[str, tuple[Subject, ...]]
    discovery: Discovery
    warnings: tuple[str, ...]
    doubted: Mapping[str, Sequence[str]]
    fingerprints: Mapping[str, Sequence[str]]
    tests: tuple[str, ...]
    splits: Mapping[str, Split]


def find_sites(config: RunConfig) -> tuple[RunConfig, Federation]:
    """Discover and partition the scans; the configuration comes back with its sites and its reference filled in.

    Raises:
        DataError, ConfigError: nothing usable there, more clients than subjects, one scan of two subjects, a site with
            no other anatomy than the one that is held back, or a setting that is of a vocabulary alone.
    """
    scenario = parse_scenario(config.scenario)
    if config.federation.offers:
        raise ConfigError(
            "federation.offers belongs to a vocabulary, such as --scenario T1,T2,PD:any; leave it out of a run of"
            f" {scenario}"
        )
    discovery = discover(Scans.of(config.data), scenario.modalities)
    parts = partition(discovery.subjects, clients=config.clients, scheme=config.partition, seed=config.seed)
    tests, splits = split_sites(config, parts.training)
    return at_sites(config, discovery, parts, tests=tests, splits=splits)


def split_sites(
    config: RunConfig, training: Mapping[str, Sequence[Subject]]
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """The subjects that are only ever tested on, and the split of each training site's subjects.

    Raises:
        ConfigError: nothing has the anatomy that is held back, or every subject of a site does.
    """
    tests = _with_unseen_anatomy(config, training)
    splits = {site: split_subjects(_ids(subjects), before=Split(test=tests)) for site, subjects in training.items()}
    return tests, splits


def at_sites(
    config: RunConfig, discovery: Discovery, parts: Partition, *, tests: tuple[str, ...], splits: Mapping[str, Split]
) -> tuple[RunConfig, Federation]:
    """The federation of a partition; see `find_sites`."""
    scenario = parse_scenario(config.scenario)
    scored = [to_score(subjects, config) for subjects in parts.unseen.values()]
    training = {site: read_headers(subjects, scenario) for site, subjects in parts.training.items()}
    unseen = [read_headers(subjects, scenario) for subjects in scored]
    content = fingerprints(subject for subjects in (*parts.training.values(), *scored) for subject in subjects)
    every_session = [session for headers in (*training.values(), *unseen) for session in headers]
    headers = [(session, session_doubts(grids)) for session, grids in every_session]
    doubted = doubted_scans(headers, Scans.of(config.data).dir)
    warnings = [*doubted]
    reference = config.reference
    if reference is None:
        trained = {
            session.paths[scenario.target]
            for site, subjects in parts.training.items()
            for subject in subjects
            if subject.id in splits[site].train
            for session in subject.sessions
        }
        every = ((session.paths[scenario.target], grids) for headers in training.values() for session, grids in headers)
        reference, warning = choose_reference(scenario, [grids for target, grids in every if target in trained])
        warnings += [warning] if warning and not measures_poses(config) else []
    if config.partition == "site" and len(parts.training) > 1 and {s.site for s in discovery.subjects} == {SINGLE_SITE}:
        warnings.append(
            "nothing tells the hospitals apart, so the subjects are dealt out to"
            f" {len(parts.training)} sites at random; pass a table of hospitals with --sites"
        )
    if config.grid.spacing_mm is None and (warning := spacing_warning(_spacings(training, scenario))):
        warnings.append(warning)
    sites, unseen_sites = tuple(sorted(parts.training)), tuple(sorted(parts.unseen))
    sizes = {site: len(members) for site, members in sorted({**parts.training, **parts.unseen}.items())}
    federation = dataclasses.replace(config.federation, sites=sites, unseen_sites=unseen_sites, subjects=sizes)
    check_sites(federation)
    config = dataclasses.replace(config, reference=reference, federation=federation)
    found = Federation(
        parts.training, parts.unseen, discovery, tuple(warnings), doubted, content, tests=tests, splits=splits
    )
    return config, found


def _with_unseen_anatomy(config: RunConfig, training: Mapping[str, Sequence[Subject]]) -> tuple[str, ...]:
    """The subjects whose brain is `data.unseen_anatomy`."""
    unseen = config.data.unseen_anatomy
    if unseen is None:
        return ()
    anatomies = read_anatomies(Scans.of(config.data))
    if unseen not in anatomies.values():
        known = ", ".join(sorted({*anatomies.values()}))
        raise ConfigError(
            f"data.unseen_anatomy={unseen}: "
            + (f"the data has {known}; choose one of them" if known else "only the built-in data knows its anatomies")
        )
    tests = tuple(subject_id for subject_id, anatomy in anatomies.items() if anatomy == unseen)
    for site, subjects in training.items():
        if {subject.id for subject in subjects} <= {*tests}:
            raise ConfigError(
                f"data.unseen_anatomy={unseen}: every subject of {site} has it, and none is left to train; hold back"
                " another one, or give data.phantom_sites more subjects"
            )
    return tests


def read_headers(subjects: Iterable[Subject], scenario: Scenario) -> Headers:
    """Read the headers of these subjects' scans. Raises DataError where one cannot be believed."""
    headers = []
    for subject in subjects:
        try:
            for session in subject.sessions:
                headers.append((session, {m: read_grid(session.paths[m]) for m in scenario.modalities}))
        except DataError as error:
            raise DataError(f"{error} (To go on without this subject: data.exclude=[{subject.id}])") from error
    return headers


def doubted_scans(
    doubts: Iterable[tuple[Session, Iterable[tuple[str, Doubt]]]], data_dir: Path
) -> dict[str, list[str]]:
    """{a warning about scans: the scans that it is about, each with what was found}, from sessions with their doubts by
    modality."""
    scans: dict[str, list[str]] = defaultdict(list)
    for session, its_doubts in doubts:
        for modality, doubt in its_doubts:
            scans[doubt.cause].append(f"{session.paths[modality].relative_to(data_dir)}: {doubt.found}")
    return {f"{cause}, in {len(names)} scan{'s' * (len(names) > 1)}": names for cause, names in scans.items()}


def choose_reference(scenario: Scenario, sessions: Sequence[Mapping[str, Grid]]) -> tuple[str, str | None]:
    """The source that was acquired in the target's pose, as far as headers tell, and a warning where they do not.

    That is the last source (`Scenario.reference`) whose native grid equals the target's in every session of every
    training subject.
    """
    for source in reversed(scenario.sources):
        if all(same_grid(grids[source], grids[scenario.target]) for grids in sessions):
            return source, None
    guessed = scenario.reference(None)
    warning = (
        f"no source has the grid of {scenario.target} in every subject, so {guessed} is taken as reference;"
        " set reference=... if another fits better"
    )
    return guessed, warning


def prepare_caches(config: RunConfig, federation: Federation) -> Federation:
    """Read every scan that the run will need into the cache, so that an unusable one is named before anything is
    trained. The federation comes back with warnings about what is odd about the voxels.

    Raises:
        DataError: a scan is unusable, one image is that of two subjects, or the disk is too small.
    """
    scans, cache_dir = Scans.of(config.data), Path(config.data.cache_dir).resolve()
    training, whole = (
        Preparation.of(config, scans, cache_dir=cache_dir, whole=whole, threads=config.threads)
        for whole in (False, True)
    )
    members, needed = {**federation.training, **federation.unseen}, []
    for site, split in _splits(config, federation).items():
        needed.append((site, training, [s for s in members[site] if s.id in split["train"]]))
        needed.append((site, whole, [s for s in members[site] if s.id in split["validation"] + split["test"]]))
    check_disk((preparation, subjects) for _, preparation, subjects in needed)
    doubts, images = [], []
    for site, preparation, subjects in needed:
        entries = preparation.open(subjects, on_session=progress.steps_of("reading scans", site))
        sessions = [session for subject in subjects for session in subject.sessions]
        for session, entry in zip(sessions, entries, strict=True):
            doubts.append((session, entry.doubts))
            images += [(image, (entry.subject_id, m, session.paths[m])) for m, image in entry.images.items()]
    check_different(images)
    doubted = doubted_scans(doubts, scans.dir)
    tested = [s for site, split in _splits(config, federation).items() for s in members[site] if s.id in split["test"]]
    if not config.privacy.on and (bad := unusable_segmentations(scans, tested)):
        doubted[f"{len(bad)} segmentation{'s' * (len(bad) > 1)} cannot be used: {_NO_TISSUE}"] = bad
    if config.data.segmenter and (short := _not_segmented(scans, tested)):
        what = f"{', '.join(MODALITIES)} and a segmentation"
        doubted[f"{len(short)} of {len(tested)} test subjects lack one of {what}: {_NO_DICE}"] = short
    warnings = (*federation.warnings, *doubted)
    return dataclasses.replace(federation, warnings=warnings, doubted={**federation.doubted, **doubted})


def training_subjects(config: RunConfig, federation: Federation) -> dict[str, list[Subject]]:
    """{site: those of its subjects that train, neither validate nor test}."""
    train = {site: {*split["train"]} for site, split in _splits(config, federation).items()}
    return {site: [s for s in subjects if s.id in train[site]] for site, subjects in federation.training.items()}


def note_data(run_dir: Path, config: RunConfig, federation: Federation) -> None:
    """Begin the events of a new run with what was found, and how it was divided."""
    events = EventLog(run_dir)
    events.cut_back(0)
    synthetic, anatomies = origin(config.data)
    training, unseen = (
        {site: len(subjects) for site, subjects in some.items()} for some in (federation.training, federation.unseen)
    )
    events.append(
        DataFound(
            text=federation.discovery.summary(),
            sites=training,
            unseen_sites=unseen,
            synthetic=synthetic,
            anatomies=anatomies,
            skipped=dict(Counter(skipped.reason for skipped in federation.discovery.skipped)),
        )
    )
    for warning in federation.warnings:
        events.append(Warned(text=warning))


def write_sites(
    run_dir: Path, config: RunConfig, federation: Federation, *, study: WholeRun | None = None
) -> dict[str, Path]:
    """Write `splits.json`, `fingerprints.json` and `sites/NAME.yaml` of every site; {site: path of its file}. `study`:
    what this run is a part of.

    Raises:
        RunError: the run's `splits.json` is of other subjects, its `fingerprints.json` of other scans, or one of them
            is damaged.
    """
    splits_path, splits = run_dir / "splits.json", _splits(config, federation)
    if read_json(splits_path) not in (None, splits):
        raise RunError(
            f"the subjects in {config.data.dir} are not those of {splits_path}: scans were added, removed or renamed"
            " since the run began; put them back as they were, or start a new run"
        )
    fingerprints_path = run_dir / "fingerprints.json"
    now = federation.fingerprints
    begun_with = read_json(fingerprints_path) or now
    an_earlier_release = any(isinstance(scans, str) for scans in begun_with.values())  # one text of each subject
    changed = [subject for subject, scans in now.items() if begun_with.get(subject) != scans]
    if changed and not an_earlier_release:
        raise RunError(
            f"the scans of {', '.join(changed[:5])}{' and others' * (len(changed) > 5)} in {config.data.dir} are not"
            f" those that the run in {run_dir} began with; put them back as they were, or start a new run"
        )
    atomic.write_json(splits_path, splits)
    atomic.write_json(fingerprints_path, now)
    scans = Scans.of(config.data)
    paths = {}
    study = study or WholeRun(run_dir, config)
    budget, home = study.config.privacy, study.run_dir.resolve()
    segmenter = home / KEPT_SEGMENTER if config.data.segmenter else None
    if config.data.segmenter and segmenter and not segmenter.exists():
        _keep_segmenter(Path(config.data.segmenter), segmenter, asked=config.evaluation.segmenter)
    for site, subjects in {**federation.training, **federation.unseen}.items():
        data = SiteData(
            dir=str(scans.dir),
            layout=config.data.layout,
            sites=str(scans.sites) if scans.sites else None,
            subjects=tuple(sorted(_ids(subjects))),
            test_subjects=tuple(sorted({*_ids(subjects)} & {*federation.tests})),
            register=config.data.register,
            modalities=tuple(config.federation.offers[site]) if site in config.federation.offers else None,
        )
        cache_dir = str(Path(config.data.cache_dir).resolve())
        privacy = None
        if budget.epsilon is not None and site in federation.training:
            privacy = SitePrivacy(
                ledger=str(home / "ledgers" / f"{file_stem(site)}.jsonl"),
                ledger_head=str(home / "ledger_heads" / f"{file_stem(site)}.json"),
                subjects=len(splits[site]["train"]),
                epsilon=budget.epsilon,
                delta=config.privacy.delta,
                min_noise_multiplier=0.0,  # the budget binds, of the prior's step as of training
                max_grad_norm=config.privacy.max_grad_norm,
                max_lot_rate=config.privacy.lot_rate,
                max_tests=study.tests,
            )
        paths[site] = run_dir.resolve() / "sites" / f"{file_stem(site)}.yaml"
        # nothing leaves this machine
        policy = Policy(
            minimum_subjects=1, answers_per_model=None, answers_per_day=None, share_last_layer=privacy is None
        )
        site_file = Site(
            site=site,
            data=data,
            cache_dir=cache_dir,
            device=config.device,
            threads=config.threads,
            compile=config.compile,
            deterministic=config.deterministic,
            segmenter=str(segmenter) if segmenter else None,
            privacy=privacy,
            policy=policy,
            state_dir=str(home / "sites" / file_stem(site)),
        )
        atomic.write_text(paths[site], to_yaml(site_file))
    return paths


def _not_segmented(scans: Scans, tested: Sequence[Subject]) -> list[str]:
    """Those who lack in a visit what a segmentation network is given, or the truth."""
    files, needed = files_of(scans), {*MODALITIES, SEG}
    visits = {subject.id: [files.get((subject.id, its.name), {}) for its in subject.sessions] for subject in tested}
    return [subject for subject, its in visits.items() if not all(needed <= {*visit} for visit in its)]


def _keep_segmenter(path: Path, kept_path: Path, *, asked: str | None) -> None:
    from agi_core.segmentation.segmenter import read_segmenter  # here, because few runs have one

    segmenter = read_segmenter(path)
    if segmenter.hash != asked:
        raise RunError(f"{path} was changed since the run began; put the segmentation network {asked} back")
    segmenter.write(kept_path)


def _splits(config: RunConfig, federation: Federation) -> dict[str, dict[str, list[str]]]:
    splits = {}
    for site, subjects in federation.training.items():
        split, ids = vars(federation.splits[site]), {*_ids(subjects)}
        splits[site] = {part: [subject for subject in some if subject in ids] for part, some in split.items()}
    for site, subjects in federation.unseen.items():
        splits[site] = {"train": [], "validation": [], "test": _ids(to_score(subjects, config))}
    return splits


def to_score(subjects: Iterable[Subject], config: RunConfig) -> list[Subject]:
    """Those subjects of an unseen site that are scored, in stable order."""
    by_id = {subject.id: subject for subject in subjects}
    return [by_id[subject_id] for subject_id in stable_order(by_id)[: config.evaluation.max_subjects]]


def _ids(subjects: Iterable[Subject]) -> list[str]:
    return [subject.id for subject in subjects]


def _spacings(training: Mapping[str, Headers], scenario: Scenario) -> dict[str, tuple[float, float, float]]:
    """Median spacing of each site's targets."""
    medians = {}
    for site, headers in training.items():
        spacings = [grids[scenario.target].spacing_mm for _, grids in headers]
        x, y, z = (statistics.median(axis) for axis in zip(*spacings, strict=True))
        medians[site] = (x, y, z)
    return medians
