"""Scans whose headers say exactly what a test wants them to say."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from agi_core.data.nifti import Volume, read_volume
from agi_core.errors import DataError

HEAD_SHAPE = (20, 24, 10)
HEAD_AFFINE = np.diag([8.0, 8.0, 14.0, 1.0])
HEAD_AFFINE[:3, 3] = -75, -90, -70


def random_data(shape: tuple[int, ...] = (5, 6, 7), seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def save_placed(
    path: Path,
    *,
    sform: Any = HEAD_AFFINE,
    qform: Any = HEAD_AFFINE,
    codes: tuple[int, int] = (1, 1),
    version: Any = nib.Nifti1Image,
    **raw_fields: Any,
) -> Path:
    """A scan with both forms; `raw_fields` are then written into the file's header as they are."""
    image = version(random_data(HEAD_SHAPE), None)
    image.set_qform(qform, code=1)
    image.set_sform(sform, code=1)
    nib.save(image, path)
    content = bytearray(path.read_bytes())
    header = np.ndarray((), image.header.template_dtype, buffer=content)
    header["sform_code"], header["qform_code"] = codes
    for field, value in raw_fields.items():
        if isinstance(value, dict):
            for index, number in value.items():
                header[field][index] = number
        else:
            header[field] = value
    path.write_bytes(content)
    return path


def read_or_refuse(path: Path) -> tuple[Volume | None, str]:
    try:
        return read_volume(path), ""
    except DataError as error:
        return None, str(error)
