"""How good a prediction is in the tumour, its parts and healthy tissue of one prepared visit: the figures of
`evaluate`, of volumes that are on no disk. The tumour is what a segmentation file beside the scans says."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from agi_core.data.header import Grid
from agi_core.data.intensity import BoolArray, scale_intensity
from agi_core.data.nifti import FloatArray, read_grid, read_volume
from agi_core.data.preprocess import resample
from agi_core.data.scans import Scans, Subject
from agi_core.errors import DataError
from agi_core.metric_table import TISSUE_METRIC_NAMES
from agi_core.scoring.rows import Scene, segmentation_rows
from agi_core.scoring.ssim import brasyn_ssim
from agi_core.scoring.volume import region_figures
from agi_core.segmentation.labels import ENHANCING, OEDEMA, read_labels
from agi_core.segmentation.segmenter import Segmenter
from agi_core.segmentation.visits import MODALITIES, SEG, named_scans

Files = Mapping[tuple[str, str], Mapping[str, Path]]
"""{(subject, session): {modality: file}}, its segmentation as `SEG`."""


def files_of(scans: Scans) -> Files:
    """The files of each visit, without those of which there are several of one kind. Raises DataError."""
    visits: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for (subject, session, kind), paths in named_scans(scans.dir, scans.layout).items():
        if not paths[1:]:
            visits[subject, session][kind] = paths[0]
    return visits


def segmentations(scans: Scans) -> dict[tuple[str, str], Path]:
    """{(subject, session): its segmentation} of the visits that have one alone. Raises DataError."""
    return {visit: files[SEG] for visit, files in files_of(scans).items() if SEG in files}


def unusable_segmentations(scans: Scans, subjects: Iterable[Subject]) -> list[str]:
    """A sentence for each segmentation of these subjects that `read_labels` refuses, beside the scan of the target,
    which is the last one of a visit."""
    segs, sentences = segmentations(scans), []
    for subject in subjects:
        for session in subject.sessions:
            seg, like = segs.get((subject.id, session.name)), [*session.paths.values()][-1]
            try:
                if seg is not None:
                    read_labels(seg, grid=read_grid(like), like=like)
            except DataError as error:
                sentences.append(str(error))
    return sentences


@dataclass(frozen=True, eq=False)
class Truth:
    """The scan in its own units, the tumour, and its oedema and enhancing core, on a working grid: all (D, H, W)."""

    scan: FloatArray
    tumour: BoolArray
    oedema: BoolArray
    enhancing: BoolArray

    @classmethod
    def on(cls, grid: Grid, *, seg: Path, scan: Path) -> Self:
        """From files; at least half of a voxel of the grid must be such tissue. Raises DataError: see `read_labels`."""
        volume = read_volume(scan)
        labels = read_labels(seg, grid=volume.grid, like=scan)
        masks = (labels > 0, labels == OEDEMA, labels == ENHANCING)
        own, *parts = (
            resample(data, volume.grid, grid).transpose(2, 1, 0)
            for data in (volume.data, *(mask.astype(np.float32) for mask in masks))
        )
        return cls(own, *(part >= 0.5 for part in parts))


def tissue_figures(prediction: FloatArray, target: FloatArray, head: BoolArray, truth: Truth) -> dict[str, float]:
    """Those of `TISSUE_METRIC_NAMES` that can be had; prediction and target (D, H, W) in [0, 1]."""
    tumour = truth.tumour
    regions = {"tumour": tumour, "healthy": head & ~tumour, "oedema": truth.oedema, "enhancing": truth.enhancing}
    figures = region_figures(prediction, target, regions)
    for name, mask in (("tumour", tumour), ("healthy", ~tumour)):
        if (ssim := brasyn_ssim(prediction, truth.scan, mask)) is not None:
            figures[f"brasyn_ssim_{name}"] = ssim
    return {name: figures[name] for name in TISSUE_METRIC_NAMES if name in figures}


def segmented_figures(
    segmenter: Segmenter,
    prediction: FloatArray,
    grid: Grid,
    *,
    files: Files,
    visit: tuple[str, str],
    target: str,
    scan: Path,
) -> tuple[dict[str, float], list[str]]:
    """Those of `SEGMENTED_METRIC_NAMES` of one visit, whose target is predicted (D, H, W) in [0, 1] on a working grid.
    They are counted on the grid of its real `scan`. Returns and raises as `segmentation_rows`."""
    subject, real = visit[0], read_volume(scan)
    firsts = [its[MODALITIES[0]] for (other, _), its in files.items() if other == subject and MODALITIES[0] in its]
    return segmentation_rows(
        segmenter,
        Scene(subject, target, {**files[visit], target: scan}, firsts),
        synthetic=resample(np.ascontiguousarray(prediction.transpose(2, 1, 0)), grid, real.grid),
        real=scale_intensity(real.data, place=scan)[0],
        labels=read_labels(files[visit][SEG], grid=real.grid, like=scan),
        grid=real.grid,
    )
