"""A last layer for a hospital that took no part in a run, from its own complete subjects, in closed form."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from agi_core.config.schema import Task
from agi_core.data.cached_session import CachedSession
from agi_core.data.fingerprint import check_different, fingerprints, part_of
from agi_core.data.partition import stable_order
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans, Subject, discover
from agi_core.errors import AbsentError, DataError
from agi_core.evaluation import evaluate
from agi_core.keys import KeyTable
from agi_core.metrics import mean_over_subjects
from agi_core.network import Network
from agi_core.protocol import Weights
from agi_core.readout import newcomers_readout, readout_statistics
from agi_core.ridge import Statistics, Vector
from agi_core.run import progress
from agi_core.run.run_folder import read_parts

_ROUNDING = 1e-12  # of a squared error
MOST_NAMED = 5  # subjects, in a sentence


@dataclass(frozen=True, eq=False)
class Adaptation:
    """The weights of a last layer of all `subjects`.

    Attributes:
        part: how much of the way from the common last layer to that of these subjects it goes, in (0, 1].
        scored, common_db, own_db: PSNR of one subject with the common layer, and with one of the others; where there is
            only one, with its own.
        gains_db: what each subject gains by a layer of all others, from the squared errors that the layers are solved
            from; empty where there is only one.
        found: who was left out of the folder, and why.
        notes: what the user should know of the subjects.
    """

    own: Weights
    subjects: tuple[str, ...]
    part: float
    scored: str
    common_db: float
    own_db: float
    gains_db: Mapping[str, float]
    found: str
    notes: Sequence[str]


def adapt(
    network: Network, scans: Scans, *, task: Task, run_dir: Path, cache_dir: Path, trained: Network | None = None
) -> Adaptation:
    """Solve a last layer for the subjects of a folder. The network is left as it was.

    Subjects that trained the model or chose its best round are left out, as far as their scans are known: the common
    layer is theirs already.

    Args:
        network: the trained model of `task`.
        run_dir: the run's folder, where the parts of its subjects are noted, as far as they are known.
        cache_dir: folder of prepared scans, which are patient data.
        trained: the same network with the last layer that training ended with, where the run has solved another.

    Raises:
        DataError: no subject has all modalities, all were used in training, a scan is unusable, or one image stands
            for two; the subjects differ from what the model has learnt by no more than scans of one scanner do, or they
            are worse off with a layer of the others.
    """
    try:
        found = discover(scans, network.scenario.modalities, of_model=True)
    except AbsentError as error:
        raise DataError(
            f"{error}; a hospital without one complete subject takes synthesize --style SITE, or the common last layer"
        ) from None
    parts, marks = read_parts(run_dir), fingerprints(found.subjects)
    left_out = [s.id for s in found.subjects if part_of(marks[s.id], parts) in ("train", "validation")]
    by_id = {subject.id: subject for subject in found.subjects if subject.id not in left_out}
    if not by_id:
        raise DataError(f"every subject of {scans.dir} trained the model of {run_dir}; give --data with other subjects")
    sites, notes = Counter(subject.site for subject in by_id.values()), []
    if len(sites) > 1:
        listed = ", ".join(f"{site} {count}" for site, count in sorted(sites.items()))
        notes.append(f"a last layer is one hospital's, and these are of {len(sites)}: {listed}; give a folder of one")
    if left_out:
        named = ", ".join(left_out[:MOST_NAMED]) + " and others" * (len(left_out) > MOST_NAMED)
        notes.append(f"used in training or validation, and so left out: {named}")

    def opened(subjects: Iterable[Subject], *, whole: bool) -> list[CachedSession]:
        preparation = Preparation.of(task, scans, cache_dir=cache_dir, whole=whole)
        return preparation.open(subjects, on_session=progress.steps_of("reading scans"))

    sessions = opened(by_id.values(), whole=False)
    paths = [session.paths for subject in by_id.values() for session in subject.sessions]
    check_different(
        (image, (session.subject_id, modality, its[modality]))
        for session, its in zip(sessions, paths, strict=True)
        for modality, image in session.images.items()
    )
    statistics_of = readout_statistics(network, sessions)
    if not statistics_of:
        raise DataError(f"no slice of the subjects in {scans.dir} holds a head")
    commons = [network, trained] if trained else [network]
    readout, part = newcomers_readout(commons, [*statistics_of.values()])
    if np.array_equal(readout, network.readout):
        raise _refusal(
            f"to the model {_count(statistics_of)} are no stranger than scans of one scanner are to each other, so a"
            " last layer of theirs might make others worse; use the common model, or give more subjects",
            notes,
        )
    gains_db = _left_out(commons, statistics_of)
    if gains_db and fmean(gains_db.values()) < 0:
        worst = min(gains_db, key=lambda subject_id: gains_db[subject_id])
        raise _refusal(
            f"a last layer of the others makes each of {_count(statistics_of)} {-fmean(gains_db.values()):.2f} dB worse"
            f" on average, {worst} {-gains_db[worst]:.2f} dB; use the common model, or give more subjects",
            notes,
        )

    *others, scored = stable_order(statistics_of)
    test = [(session, None) for session in opened([by_id[scored]], whole=True)]
    layer, _ = newcomers_readout(commons, [statistics_of[subject_id] for subject_id in others or [scored]])
    common, common_weights = network.readout, {name: array.copy() for name, array in network.weights.items()}
    keys = KeyTable.of(replace(task, personal="head"), {name: array.ndim for name, array in common_weights.items()})

    def psnr_db(readout: Vector) -> float:
        network.set_readout(readout)
        return mean_over_subjects(evaluate(network, test).values())["psnr_db"]

    try:
        common_db, own_db = psnr_db(common), psnr_db(layer)
        network.set_readout(readout)
        own = {name: network.weights[name].copy() for name in keys.personal}
    finally:
        network.load(common_weights)
    return Adaptation(own, tuple(statistics_of), part, scored, common_db, own_db, gains_db, found.summary(), notes)


def _refusal(why: str, notes: Sequence[str]) -> DataError:
    """With what is odd about the subjects, which may be the cause."""
    return DataError("; ".join([why, *notes]))


def _left_out(commons: Sequence[Network], statistics_of: Mapping[str, Statistics]) -> dict[str, float]:
    """What each subject gains in dB over the first common layer by the layer of all others."""
    gains_db = {}
    for subject_id, its in statistics_of.items() if len(statistics_of) > 1 else ():
        layer, _ = newcomers_readout(commons, [one for other, one in statistics_of.items() if other != subject_id])
        before, after = (max(its.mean_square_error(w), _ROUNDING) for w in (commons[0].readout, layer))
        gains_db[subject_id] = 10 * math.log10(before / after)
    return gains_db


def _count(subjects: Mapping[str, Statistics]) -> str:
    return f"these {len(subjects)} subjects" if len(subjects) > 1 else f"the scans of {next(iter(subjects))}"
