"""`--dry-run`: two training steps, a last layer and an evaluation on the site's own scans, with time and memory."""

import dataclasses
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from agi_core.config.schema import Task
from agi_core.data.datasets import TrainingSlices, validation_subset
from agi_core.errors import DataError
from agi_core.evaluation import evaluate
from agi_core.host.device import open_device
from agi_core.network import Network
from agi_core.personal import own_weights
from agi_core.report.markup import plural
from agi_core.training import train_round
from client.site.file import read_deployed_site
from client.site.opened import OpenSite

MAX_SUBJECTS = 3  # that are read for training, and for evaluation


@dataclass(frozen=True)
class Measured:
    """One thing that was done: how long it took, and the most memory that the process, or the GPU, has held so far."""

    what: str
    seconds: float
    peak_bytes: int


def dry_run(site_path: Path, task: Task) -> Iterator[Measured]:
    """Read some scans, train two steps, solve an own last layer if the task asks for one, evaluate once.

    Raises:
        AgiError: the site file, the scans or the device cannot be used.
    """
    task = dataclasses.replace(task, training=dataclasses.replace(task.training, local_steps=2))
    site = read_deployed_site(site_path)
    device = open_device(site.device, threads=site.threads, deterministic=site.deterministic, compiled=site.compile)
    scans = OpenSite(site).scans(task)
    scored = scans.subjects.validation or scans.subjects.test or scans.subjects.train

    started = time.monotonic()
    training = TrainingSlices.of(task, scans.preparation(whole=False).open(scans.subjects.train[:MAX_SUBJECTS]))
    if not len(training):
        raise DataError(f"nobody who trains has all modalities of {task.scenario}; --check shows what this site has")
    slices = validation_subset(
        scans.preparation(whole=True).open(scored[:MAX_SUBJECTS]),
        limit=task.evaluation.validation_slices,
        volumes=task.model.dims == 3,
    )
    if not slices:
        raise DataError("no slice of these subjects holds enough of the head to be scored; check the target scans")
    many = len(training.sessions) + len(slices)
    yield Measured(f"reading {many} sessions (from then on cached)", time.monotonic() - started, _peak_bytes(device))

    private = task.privacy.on or site.privacy is not None
    network, ends = Network(task, device=device, compiled=site.compile and not private), [time.monotonic()]

    def end(*_: object) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ends.append(time.monotonic())

    train_round(network.module, training.draw, task=task, site=site.site, round=1, on_step=end)
    yield Measured("first training step (with warm-up)", ends[1] - ends[0], _peak_bytes(device))
    yield Measured("next training step", ends[2] - ends[1], _peak_bytes(device))

    if task.personal != "none":
        started = time.monotonic()
        own_weights(network, training, task=task, site=site.site)
        what = f"own prior and last layer from {plural(len(training.subjects), 'subject')}"
        yield Measured(what, time.monotonic() - started, _peak_bytes(device))

    started, count = time.monotonic(), sum(len(numbers) for _, numbers in slices)
    evaluate(network, slices)
    yield Measured(f"evaluation of {plural(count, 'slice')}", time.monotonic() - started, _peak_bytes(device))


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
