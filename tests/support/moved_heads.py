"""Heads whose modalities lie apart, moved by hand."""

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np

from tests.support.smooth_images import texture


def write_moved(root: Path, *, moved_vox: Mapping[str, int], subjects: int = 3, first: int = 100) -> None:
    """Heads of 2 mm voxels in the slice; each modality is moved along the rows by so many voxels. Subjects
    are numbered from `first` on."""
    i, j = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 88), indexing="ij")
    head = (i / 0.75) ** 2 + (j / 0.75) ** 2 < 1
    for number in range(subjects):
        image = texture(96, 88, detail=10, seed=number)[0, 0].numpy()
        for m, (modality, vox) in enumerate(moved_vox.items()):
            contrast = (0.2 + 0.8 * image) if m % 2 else (1.1 - 0.9 * image)
            volume = np.repeat(np.roll(head * contrast, vox, axis=0)[..., None], 4, axis=2) * 1000
            path = root / f"IXI-{modality}" / f"IXI{first + number:03}-Guys-{1000 + number}-{modality}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), np.diag([2.0, 2.0, 5.0, 1.0])), path)
