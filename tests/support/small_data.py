"""Small real trees, NIfTI files in the layouts that hospitals have, and the settings of a short run on them."""

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (40, 36, 8)


AFFINE = np.diag([4.0, 4.0, 8.0, 1.0])


SMALL_TASK = (
    "model.widths=[8,16]",
    "model.alignment=none",
    "model.prior=none",
    "personal=none",
    "grid.crop=[32,32]",
    "training.local_steps=2",
    "training.batch_size=2",
    "rounds=2",
    "evaluation.validation_slices=4",
)
SMALL = ("engine=in-process", *SMALL_TASK)  # of a simulation: processes take seconds to start


def write_head(path: Path, *, seed: int, contrast: float) -> None:
    """A scan that has what the loaders look for: an ellipsoid head with inner structure, and noise around it."""
    rng = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    radius = (i / 0.8) ** 2 + (j / (0.75 + 0.02 * (seed % 5))) ** 2 + (k / 1.2) ** 2
    head = radius < 1
    inner = 0.5 + 0.5 * np.sin(contrast * (5 * i + 3 * j * j + seed % 7)) * np.exp(-radius)
    data = 600 * inner * head + np.abs(rng.normal(0, 12, SHAPE))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data.astype(np.int16), AFFINE), path)


def write_ixi(root: Path, sites: Mapping[str, int]) -> Path:
    """`root`/IXI-T1/IXI100-Guys-1000-T1.nii.gz and so on, one folder per modality."""
    number = 100
    for site, count in sites.items():
        for _ in range(count):
            for m, modality in enumerate(("T1", "T2", "PD")):
                name = f"IXI{number}-{site}-{1000 + number}-{modality}.nii.gz"
                write_head(root / f"IXI-{modality}" / name, seed=number, contrast=1.0 + 0.4 * m)
            number += 1
    return root
