"""A last layer for a hospital that took no part in a run, from its own complete subjects, in closed form."""

from dataclasses import dataclass, replace
from pathlib import Path

from agi_core.config.schema import Task
from agi_core.data.cached_session import CachedSession
from agi_core.data.partition import stable_order
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans, Subject, discover
from agi_core.errors import DataError
from agi_core.evaluation import evaluate
from agi_core.keys import KeyTable
from agi_core.metrics import mean_over_subjects
from agi_core.network import Network
from agi_core.protocol import Weights
from agi_core.readout import own_readout
from agi_core.ridge import Vector
from agi_core.run import progress


@dataclass(frozen=True, eq=False)
class Adaptation:
    """The weights of a last layer of all `subjects`, and PSNR in dB of one of them with the common one and with one
    solved on the others. Where there is only one, it is solved and scored on that subject. `found` says who was left
    out of the folder, and why."""

    own: Weights
    subjects: tuple[str, ...]
    scored: str
    common_db: float
    own_db: float
    found: str


def adapt(network: Network, scans: Scans, *, task: Task, cache_dir: Path) -> Adaptation:
    """Solve a last layer for the subjects of a folder. The network is left as it was.

    Args:
        network: the trained model of `task`.
        cache_dir: folder of prepared scans, which are patient data.

    Raises:
        DataError: no subject has all modalities, a scan is unusable, or the last layer makes the scored subject worse.
    """
    found = discover(scans, network.scenario.modalities)
    by_id = {subject.id: subject for subject in found.subjects}
    if not by_id:
        raise DataError(f"no subject in {scans.dir} has all of {', '.join(network.scenario.modalities)}")
    *others, scored = [by_id[subject_id] for subject_id in stable_order(by_id)]

    def opened(*subjects: Subject, whole: bool) -> list[CachedSession]:
        preparation = Preparation.of(task, scans, cache_dir=cache_dir, whole=whole)
        return preparation.open(subjects, on_session=progress.steps_of("reading scans"))

    test = [(session, None) for session in opened(scored, whole=True)]

    def psnr_db(readout: Vector) -> float:
        network.set_readout(readout)
        return mean_over_subjects(evaluate(network, test).values())["psnr_db"]

    common, common_weights = network.readout, {name: array.copy() for name, array in network.weights.items()}
    try:
        own = own_readout(network, opened(*(others or [scored]), whole=False))
        common_db, own_db = psnr_db(common), psnr_db(own)
    finally:
        network.load(common_weights)
    if own_db < common_db:
        raise DataError(
            f"a last layer of these subjects makes {scored.id} worse: {own_db:.2f} dB, and {common_db:.2f} dB with the"
            " common model; use the common model, or give more subjects"
        )
    keys = KeyTable.of(replace(task, personal="head"), {name: array.ndim for name, array in common_weights.items()})
    network.set_readout(own_readout(network, opened(*others, scored, whole=False)))
    weights = {name: network.weights[name].copy() for name in keys.personal}
    network.load(common_weights)
    return Adaptation(weights, tuple(by_id), scored.id, common_db, own_db, found.summary())
