"""Training of the segmentation network on the real scans of a folder in BraTS's layout."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from agi_core.data.fingerprint import fingerprint, image_fingerprint
from agi_core.data.intensity import scale_intensity
from agi_core.data.nifti import read_volume
from agi_core.data.preprocess import same_grid
from agi_core.errors import DataError
from agi_core.segmentation.box import box_of
from agi_core.segmentation.labels import TARGETS, Labels, check_labels, read_labels, target_mask
from agi_core.segmentation.segmenter import Segmenter, SegmenterSettings
from agi_core.segmentation.visits import MODALITIES, SEG, read_visits
from agi_core.voxel_regression import VoxelRegression

OnStep = Callable[[int, int, float], None]  # (steps done, all, loss)


@dataclass(frozen=True, eq=False)
class _Visit:
    """`volumes` float16 (M, D, H, W) in [0, 1], `labels` uint8 (D, H, W), cut to the brain; at least a patch."""

    volumes: NDArray[np.float16]
    labels: Labels


def train_segmenter(
    data_dir: Path, settings: SegmenterSettings, *, on_step: OnStep | None = None
) -> tuple[Segmenter, list[str], list[str]]:
    """Train on every visit of the folder that has all of `MODALITIES` and a segmentation; all stay in memory.

    Loss: binary cross-entropy and 1 - soft Dice of the three targets, on random patches, every second one around a
    voxel of the tumour.

    Returns:
        The segmenter, the visits (subject and session) that trained it, and notes on what was left out or is odd.

    Raises:
        DataError: there is no such visit, none of them has a tumour, or one of its files cannot be used.
    """
    found = {" ".join(filter(None, key)): paths for key, paths in sorted(read_visits(data_dir, "brats").items())}
    lacking = {name: [kind for kind in (*MODALITIES, SEG) if kind not in paths] for name, paths in found.items()}
    whole = {name: paths for name, paths in found.items() if not lacking[name]}
    if not whole:
        raise DataError(f"no visit in {data_dir} has {', '.join(MODALITIES)} and {SEG}. Check the folder's names.")
    left_out = Counter(f"no {', '.join(kinds)}" for kinds in lacking.values() if kinds)
    notes = [f"left out {count} visit{'s' * (count > 1)}: {why}" for why, count in sorted(left_out.items())]
    notes += check_labels({paths[SEG]: paths[MODALITIES[0]] for paths in whole.values()})
    visits = [_read(paths, patch=settings.patch) for paths in whole.values()]
    if not any(visit.labels.any() for visit in visits):
        raise DataError(
            f"no segmentation in {data_dir} holds a tumour: there is nothing to learn. Check the seg files."
        )
    segmenter = Segmenter(settings)
    first = [paths[MODALITIES[0]] for paths in whole.values()]
    segmenter.trained_on = [*map(fingerprint, first), *(image_fingerprint(read_volume(path).data) for path in first)]
    for m, target in enumerate(MODALITIES):
        segmenter.regressions[target] = VoxelRegression.fit_values(_without(visits, m))
    _train(segmenter, visits, on_step=on_step)
    return segmenter, list(whole), notes


def _train(segmenter: Segmenter, visits: Sequence[_Visit], *, on_step: OnStep | None) -> None:
    settings, module = segmenter.settings, segmenter.module
    rng = np.random.default_rng(settings.seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    module.train()
    for step in range(1, settings.steps + 1):
        drawn = [_patch(visits, rng, size=settings.patch, tumour=n % 2 == 0) for n in range(settings.batch_size)]
        volumes, truth = (torch.from_numpy(np.stack(parts)) for parts in zip(*drawn, strict=True))
        loss = _loss(module(volumes), truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step, settings.steps, float(loss.detach()))


def _loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Of (B, C, D, H, W): cross-entropy, and 1 - soft Dice of each target over the batch."""
    p = torch.sigmoid(logits)
    both, total = (x.sum((0, 2, 3, 4)) for x in (p * truth, p + truth))
    return F.binary_cross_entropy_with_logits(logits, truth) + 1 - ((2 * both + 1) / (total + 1)).mean()


def _read(paths: dict[str, Path], *, patch: tuple[int, int, int]) -> _Visit:
    volumes = {modality: read_volume(paths[modality]) for modality in MODALITIES}
    first = volumes[MODALITIES[0]]
    for modality, volume in volumes.items():
        if not same_grid(volume.grid, first.grid):
            raise DataError(
                f"{paths[modality]} lies on another grid than {paths[MODALITIES[0]]}. Bring all scans of a visit onto"
                " one grid first."
            )
    labels = read_labels(paths[SEG], grid=first.grid, like=paths[MODALITIES[0]])
    stack = np.stack([scale_intensity(volume.data, place=paths[m])[0] for m, volume in volumes.items()])
    box = box_of((stack != 0).any(axis=0), margin=0)
    cut, cut_labels = stack[:, *box].transpose(0, 3, 2, 1), labels[box].transpose(2, 1, 0)
    lacking = [max(0, n - have) for n, have in zip((patch[2], patch[0], patch[1]), cut_labels.shape, strict=True)]
    around = [(n // 2, n - n // 2) for n in lacking]
    return _Visit(np.pad(cut, [(0, 0), *around]).astype(np.float16), np.pad(cut_labels, around))


def _patch(
    visits: Sequence[_Visit], rng: np.random.Generator, *, size: tuple[int, int, int], tumour: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A random patch (M, d, h, w) of a random visit and its targets (C, d, h, w), mirrored left to right by chance."""
    visit = visits[int(rng.integers(len(visits)))]
    shape, extent = np.array(visit.labels.shape), np.array((size[2], size[0], size[1]))
    places = np.argwhere(visit.labels) if tumour else np.empty((0, 3))
    centre = places[rng.integers(len(places))] if len(places) else rng.integers(0, shape)
    start = np.clip(centre - extent // 2, 0, shape - extent)
    box = tuple(slice(int(a), int(a + n)) for a, n in zip(start, extent, strict=True))
    volumes, labels = visit.volumes[:, *box].astype(np.float32), visit.labels[box]
    truth = np.stack([target_mask(labels, target) for target in TARGETS]).astype(np.float32)
    return (volumes[..., ::-1].copy(), truth[..., ::-1].copy()) if rng.random() < 0.5 else (volumes, truth)


def _without(visits: Sequence[_Visit], m: int) -> Iterator[tuple[NDArray[np.float16], NDArray[np.float16]]]:
    """Of each slice the values of all modalities but one, and of that one."""
    for visit in visits:
        for k in range(visit.volumes.shape[1]):
            slices = visit.volumes[:, k]
            yield np.delete(slices, m, axis=0), slices[m]
