"""What a model's volumes can be doubted by, from complete subjects: an error model, and the range that it knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agi_core.config.schema import Task
from agi_core.data.fingerprint import fingerprints, part_of
from agi_core.data.nifti import read_volume
from agi_core.data.partition import stable_order
from agi_core.data.preparation import Preparation
from agi_core.data.preprocess import align
from agi_core.data.registration import register_sources
from agi_core.data.scans import Scans, Subject, discover
from agi_core.errors import DataError
from agi_core.known_range import FEWEST, OF_CALIBRATION, OF_TRAINING, KnownRange, Measures, measure
from agi_core.network import Network
from agi_core.report.markup import plural
from agi_core.run import progress
from agi_core.run.run_folder import read_namesakes, read_parts
from agi_core.uncertainty import ErrorModel, calibrate, sample

MOST = 64
"""Training subjects whose sources are measured: a range does not change with more, and each takes a second or two."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What `calibrate_on` makes.

    Attributes:
        covered: {site: coverage of each of its subjects by the interval of all others}.
        known: the range; None where the subjects that could tell it, as many as `seen`, are too few.
        notes: what the user should know.
    """

    errors: ErrorModel
    covered: Mapping[str, Sequence[float]]
    known: KnownRange | None
    seen: int
    notes: Sequence[str]


def calibrate_on(network: Network, scans: Scans, *, task: Task, run_dir: Path, cache_dir: Path) -> Calibration:
    """Calibrate a model on the subjects of a folder. The network is left as it was.

    Subjects that trained it tell the known range alone, since its errors on them are too small; where they are too few
    for a range, the others tell it with them. Its test subjects are left out: `evaluate` tells their coverage. All
    others, those that chose its best round included, tell the errors.

    Args:
        network: the trained model of `task`.
        run_dir: the run's folder, where the parts of its subjects are noted, as far as they are known.
        cache_dir: folder of prepared scans, which are patient data.

    Raises:
        DataError: fewer than two subjects are left, a scan is unusable, or a head is too small to measure.
    """
    found = discover(scans, network.scenario.modalities, of_model=True)
    parts, marks = read_parts(run_dir), fingerprints(found.subjects)
    of_part: dict[str, list[Subject]] = {"train": [], "validation": [], "test": []}
    by_id = {subject.id: subject for subject in found.subjects}
    strangers = 0
    for subject_id in stable_order(by_id):
        part = part_of(marks[subject_id], parts)
        strangers += part is None
        of_part[part or "validation"].append(by_id[subject_id])
    trained, chosen, tests = of_part.values()
    if len(chosen) < 2:
        raise DataError(
            f"{scans.dir} has {plural(len(chosen), 'complete subject')} beside the {len(trained)} that trained and"
            f" {len(tests)} that test the model; give --data with at least 2 others, better 20"
        )
    preparation, notes = Preparation.of(task, scans, cache_dir=cache_dir, whole=True), []
    on_subject, samples = progress.steps_of("errors"), []
    for done, subject in enumerate(chosen, start=1):
        samples.append(sample(network, preparation.open([subject])))
        on_subject(done, len(chosen))
    errors, shares = calibrate(
        samples,
        sites=len({subject.site for subject in chosen}),
        fingerprints=[scan for subject in chosen for scan in marks[subject.id]],
    )
    covered: dict[str, list[float]] = {}
    for subject, share in zip(chosen, shares, strict=True):
        covered.setdefault(subject.site, []).append(share)
    if parts and strangers:
        notes.append(
            f"errors are told by {plural(strangers, 'subject')} who had no part in this model's run, too: of another"
            " site, or new; with the run's own folder also of a site that hides the target"
        )
    if not parts:
        notes.append("which subjects trained the model is not known here; an interval of those would be too narrow")
    if namesakes := read_namesakes(run_dir, marks, parts=("train",)):
        notes.append(
            "named like subjects that trained the model, but other files, and so calibrated on:"
            f" {', '.join(namesakes)}; of the same people an interval is too narrow"
        )
    if tests:
        notes.append(f"without {plural(len(tests), 'test subject')} of the run; `evaluate` tells their coverage")
    of, seen = (OF_TRAINING, trained) if len(trained) >= FEWEST else (OF_CALIBRATION, [*trained, *chosen])
    known = None
    if len(seen) >= FEWEST:
        sources = measured(seen[:MOST], network, task=task, register=scans.register == "rigid")
        known = KnownRange.over(sources, of=of)
    return Calibration(errors, covered, known, len(seen), notes)


def measured(
    subjects: Sequence[Subject], network: Network, *, task: Task, register: bool, site: str = ""
) -> list[Measures]:
    """The measures of the first visit of each subject, prepared as `agi_core.synthesis` prepares what it is given.

    Args:
        register: whether sources are laid on the reference first.
        site: whose subjects they are, for those who follow the progress.

    Raises:
        DataError: a scan is unusable.
    """
    on_subject, found = progress.steps_of("known range", site), []
    for done, subject in enumerate(subjects, start=1):
        paths, to = subject.sessions[0].paths, network.reference
        volumes = {modality: read_volume(paths[modality]) for modality in network.scenario.sources}
        if register:
            volumes = register_sources(volumes, to=to, place=str(paths[to]))
        prepared = align(volumes, to=to, spacing_mm=task.spacing_mm, place=str(paths[to]))
        found.append(measure(volumes, prepared, network=network))
        on_subject(done, len(subjects))
    return found
