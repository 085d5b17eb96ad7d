"""A small tree in BraTS's layout: stripped heads with a tumour of three parts, each brighter or darker than tissue."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from tests.support.head_scans import Array, ball

SHAPE = (28, 30, 24)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
MODALITIES = ("t1n", "t1c", "t2w", "t2f")
_LIGHT = {"t1n": (-150, -80, -100), "t1c": (-150, -80, 350), "t2w": (300, 150, 100), "t2f": (50, 350, 200)}  # by label


def save(path: Path, data: Any, affine: Any = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def labels_of(seed: int) -> Array:
    """Oedema (2) around enhancing tumour (3) around necrosis (1), somewhere in the head; (I, J, K)."""
    centre = np.array([14, 15, 12]) + np.random.default_rng(seed).integers(-3, 4, 3)
    distance = np.linalg.norm(np.indices(SHAPE) - centre[:, None, None, None], axis=0)
    return np.select([distance < 1.5, distance < 3, distance < 5.5], [1, 3, 2], 0).astype(np.uint8)


def write_subject(root: Path, number: int, *, modalities: Sequence[str] = MODALITIES, seg: bool = True) -> str:
    """`root`/BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1n.nii.gz and so on; returns that name of the folder."""
    name, labels, rng = f"BraTS-GLI-{number:05}-000", labels_of(number), np.random.default_rng(number)
    head = ball(SHAPE, 11)
    tissue = 500 + 120 * np.sin(np.indices(SHAPE).sum(0) / 3 + number) + rng.normal(0, 15, SHAPE)
    for modality in modalities:
        light = np.choose(labels, (0, *_LIGHT[modality]))
        data = np.where(head, np.maximum(tissue + light + 30 * len(modality), 1), 0)
        save(root / name / f"{name}-{modality}.nii.gz", data.astype(np.int16))
    if seg:
        save(root / name / f"{name}-seg.nii.gz", labels)
    return name


def read(path: Path) -> Array:
    return np.asarray(nibabel.load(path).dataobj)
