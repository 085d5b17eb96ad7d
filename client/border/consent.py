"""Consent per study: with `policy.studies: ask`, a person at the site agrees to each study before it gets an answer.

`state_dir/studies/HASH.json` holds what was asked, and whether somebody said yes. The hash is of run and task: a study
whose settings have changed is asked about again, but not if they are those that the sites' scans choose. Of a run over
a vocabulary it is that of the whole, whose cells are asked about in its name (`agi_core.study`).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agi_core.cells import is_vocabulary
from agi_core.config.load import read_task, task_json
from agi_core.errors import AgiError, PolicyError
from agi_core.host import atomic
from agi_core.host.console import printable
from agi_core.protocol import CALIBRATION_SUBJECTS, RANGE_SUBJECTS, Request
from agi_core.run.json_objects import JsonObject
from agi_core.scenario import parse_scenario
from agi_core.study import WholeStudy
from client.site.policy import LAST_LAYER_IS, Policy

MOST = 100  # studies that wait: nobody outside may fill the disk with questions


@dataclass(frozen=True)
class AskedStudy(JsonObject):
    """A run as the coordinator names it, its task as JSON, and whether the site takes part. Of a run over a vocabulary
    the task is that of the whole."""

    run: str
    task: str
    agreed: bool = False


def check_agreed(state_dir: Path, request: Request) -> None:
    """Note a study that was not asked about before.

    Raises:
        PolicyError: nobody has agreed to it yet.
        ProtocolError: the request is of no cell of the study that it names, or of another run of the cell.
    """
    run, task = request.run_id, read_task(request.task)
    if request.study:
        whole = WholeStudy.of(request)
        whole.check_cell(task)
        whole.check_run(request, task)
        run, task = whole.run, read_task(whole.task)
    before = replace(task, reference=None, training=replace(task.training, align_target=None))
    study = AskedStudy(run, task_json(before))
    known = AskedStudy.read(_path(state_dir, study))
    if known is not None and known.agreed:
        return
    if known is None and sum(not other.agreed for other in studies(state_dir)) < MOST:
        atomic.write_json(_path(state_dir, study), study.to_json())
    raise PolicyError(
        f"policy.studies: nobody has agreed to study {printable(run)} yet; read what it asks for, and"
        " answer, with: python -m client --site NAME --studies"
    )


def studies(state_dir: Path) -> list[AskedStudy]:
    """All that were asked about and can be read, in the order of names."""
    found = map(_readable, (state_dir / "studies").glob("*.json"))
    return sorted((study for study in found if study is not None), key=lambda study: study.run)


def unreadable(state_dir: Path) -> list[Path]:
    """The files of studies that cannot be read: they are damaged, or of a release with other settings."""
    return [path for path in sorted((state_dir / "studies").glob("*.json")) if _readable(path) is None]


def agree(state_dir: Path, study: AskedStudy) -> None:
    """From the next request on the study is answered."""
    atomic.write_json(_path(state_dir, study), replace(study, agreed=True).to_json())


def forget(state_dir: Path, study: AskedStudy) -> None:
    """The study is noted anew when it is asked about again."""
    _path(state_dir, study).unlink(missing_ok=True)


def described(study: AskedStudy, policy: Policy, *, private: bool) -> Iterator[str]:
    """What a person has to know before the answer, line by line. `private`: the site trains privately or not at all."""
    task = read_task(study.task)
    scenario, training, privacy = parse_scenario(task.scenario), task.training, task.privacy
    cells = is_vocabulary(task.scenario)
    each = ", shared by the cells that you can train," if cells else ""
    yield f"study {printable(study.run)}"
    if cells:
        yield f"  makes     any of {', '.join(scenario.sources)} from any others: a run for each cell that you hold"
    else:
        yield f"  makes     {scenario.target} from {', '.join(scenario.sources)}"
    rounds = f"{task.rounds} round{'s' * (task.rounds != 1)}"
    yield f"  trains    {rounds} of {training.local_steps} steps{each} on your training subjects"
    if policy.alone and not (privacy.on or private):
        yield "  then      as many steps again, of a model of this site alone that stays here, to compare with"
    if privacy.on:
        most = "in any cell; your ledger adds the cells up, to your own limit" if cells else "for each subject"
        yield f"  privacy   at most epsilon {privacy.epsilon:g} at delta {privacy.delta:g} {most}"
    else:
        yield "  privacy   none: weights may tell something of single subjects (docs/security.md)"
    figures = ", ".join(policy.metrics) if policy.metrics is not None else "the figures of docs/egress.md"
    noised = "noised weights" if privacy.on or private else "the trained weights"
    if task.model.prior != "none" and not (privacy.on or private):
        yield "  leaves    once, means of products of voxels' values over your training subjects (docs/egress.md)"
    if not (privacy.on or private):
        yield "  leaves    once, how far your scans of each modality lie apart, in mm (docs/egress.md)"
        if policy.metrics is None or CALIBRATION_SUBJECTS in policy.metrics:
            yield "  leaves    at the end, how often errors on your validation subjects are how large (docs/egress.md)"
        if policy.metrics is None or RANGE_SUBJECTS in policy.metrics:
            yield "  leaves    at the end, what sources of training subjects are like, mean and spread (docs/egress.md)"
    if policy.share_last_layer and task.personal == "head" and not (privacy.on or private):
        yield "  leaves    at the end, for a last layer for all, means of products of features over your training"
        yield "            subjects, without noise (docs/egress.md)"
        yield f"  leaves    at the end, for use elsewhere, your own last layer, {LAST_LAYER_IS}"
    if cells and not (privacy.on or private):
        yield "  leaves    how large errors of cells are, and how far two cells lie apart, for blends (docs/egress.md)"
    yield f"  leaves    {noised} after each round, your number of subjects, and of means over subjects {figures}"


def _readable(path: Path) -> AskedStudy | None:
    try:
        study = AskedStudy.read(path)
        if study is not None:
            read_task(study.task)
    except AgiError:
        return None
    return study


def _path(state_dir: Path, study: AskedStudy) -> Path:
    digest = hashlib.sha256(f"{study.run}\n{study.task}".encode()).hexdigest()[:32]
    return state_dir / "studies" / f"{digest}.json"
