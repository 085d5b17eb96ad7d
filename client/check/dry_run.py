"""`--dry-run`: two training steps and one evaluation on the site's own scans, with time and memory. No network."""

import dataclasses
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from agi_core.config.load import task_json
from agi_core.config.schema import Task
from agi_core.data.datasets import TrainingSlices, validation_subset
from agi_core.data.preparation import CachedSession, build_cache
from agi_core.data.scans import Subject
from agi_core.errors import DataError
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import spatial_multiple
from agi_core.prediction import predictor
from agi_core.scenario import parse_scenario
from agi_core.training import evaluate, train_round
from client.site.file import read_deployed_site
from client.work.trainer import open_device, open_subjects

MAX_SUBJECTS = 3  # that are read for training, and for evaluation


@dataclass(frozen=True)
class Measured:
    """One thing that was done: how long it took, and the most memory that the process, or the GPU, has held so far."""

    what: str
    seconds: float
    peak_bytes: int


def dry_run(site_path: Path, task: Task) -> Iterator[Measured]:
    """Read some scans, train two steps, evaluate once.

    Raises:
        AgiError: the site file, the scans or the device cannot be used.
    """
    site = read_deployed_site(site_path)
    task = dataclasses.replace(task, training=dataclasses.replace(task.training, local_steps=2))
    device = open_device(site)
    subjects = open_subjects(site_path, task_json(task))
    sources = parse_scenario(task.scenario).sources
    scored = subjects.validation or subjects.test or subjects.train

    spacing = task.grid.spacing_mm

    def opened(chosen: tuple[Subject, ...], *, whole: bool) -> list[CachedSession]:
        return build_cache(
            chosen[:MAX_SUBJECTS],
            scenario=parse_scenario(task.scenario),
            spacing_mm=(spacing[0], spacing[1], spacing[2]) if spacing else None,
            cache_dir=Path(site.cache_dir),
            data_dir=Path(site.data.dir),
            whole=whole,
            register_to=(task.reference or sources[0]) if site.data.register == "rigid" else None,
        )

    started = time.monotonic()
    training = TrainingSlices(opened(subjects.train, whole=False), crop=task.crop, neighbours=task.model.neighbours)
    slices = validation_subset(
        opened(scored, whole=True), limit=task.evaluation.validation_slices, volumes=task.model.dims == 3
    )
    if not slices:
        raise DataError("no slice of these subjects holds enough of the head to be scored; check the target scans")
    many = len(training.sessions) + len(slices)
    yield Measured(f"reading {many} sessions (from then on cached)", time.monotonic() - started, _peak_bytes(device))

    model = build_model(task.model, sources=len(sources)).to(device)
    ends = [time.monotonic()]
    train_round(
        model, training.draw, task=task, site=site.site, round=1, on_step=lambda *_: ends.append(time.monotonic())
    )
    yield Measured("first training step (with warm-up)", ends[1] - ends[0], _peak_bytes(device))
    yield Measured("next training step", ends[2] - ends[1], _peak_bytes(device))

    started, count = time.monotonic(), sum(len(numbers) for _, numbers in slices)
    predict = predictor(model, multiple=spatial_multiple(task.model), crop=task.crop)
    evaluate(predict, slices, neighbours=task.model.neighbours)
    yield Measured(f"evaluation of {count} slices", time.monotonic() - started, _peak_bytes(device))


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
