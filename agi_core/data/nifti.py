"""NIfTI files in and out: the only module that knows nibabel.

Every volume is handed on in closest-canonical RAS+ orientation: array axes (I, J, K) run to the patient's right,
anterior and superior; `affine` (float64) maps a voxel index to mm. `write_volume` goes back to the stored orientation.
"""

import logging
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from agi_core.errors import DataError
from agi_core.host import atomic

FloatArray = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

MAX_VOLUME_BYTES = 4 * 2**30
"""Largest volume that is read, in memory: a broken or hostile header must not claim more than the machine has."""

WRITTEN_STEP = 1e-4
"""Value of one stored integer in files by `write_volume` (`scl_slope`): 0..1 is stored as 0..10000."""

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # its remarks on headers; what matters raises below

_READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
)


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume are: shape (I, J, K) in RAS+ order, and voxel index -> mm."""

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing along I (right), J (anterior) and K (superior)."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3-D image: float32 (I, J, K) in RAS+ order, slope and intercept applied, and its affine."""

    data: FloatArray
    affine: Affine

    @property
    def grid(self) -> Grid:
        i, j, k = self.data.shape
        return Grid((i, j, k), self.affine)


@np.errstate(all="ignore")  # what overflows is not finite, and refused
def read_volume(path: Path) -> Volume:
    """Read one 3-D NIfTI file.

    Raises:
        DataError: the file is missing, broken, not one 3-D volume of real numbers, larger than `MAX_VOLUME_BYTES`,
            has no orientation, holds NaN or infinity, or is constant.
    """
    image = _open(path)
    try:
        data = image.get_fdata(caching="unchanged", dtype=np.float32)
    except _READ_ERRORS as error:
        raise DataError(
            f"{path} cannot be read to its end ({error}); it is probably truncated. Copy or download it again."
        ) from error
    if not np.isfinite(data).all():
        count = int((~np.isfinite(data)).sum())
        raise DataError(f"{path} holds NaN or infinity in {count} voxels. Export it again, or leave this scan out.")
    if data.min() == data.max():
        raise DataError(f"{path} is constant: every voxel is {data.min():g}. Export it again, or leave this scan out.")
    orientation = nib.io_orientation(image.affine)
    data = nib.apply_orientation(data.reshape(image.shape[:3]), orientation)
    return Volume(np.ascontiguousarray(data), _canonical(image).affine)


@np.errstate(all="ignore")
def read_grid(path: Path) -> Grid:
    """Read shape and affine from the header alone, in RAS+ order. Raises DataError as `read_volume` does."""
    return _canonical(_open(path))


def write_volume(path: Path, data: FloatArray, *, like: Path, descrip: str) -> None:
    """Write a synthesised volume on the grid of an existing file, atomically.

    Orientation, axis order, qform, sform, their codes, spacing and units are those of `like`; its free-text fields and
    header extensions are not copied, since they may name a person. Stored as int16 with slope `WRITTEN_STEP`.

    Args:
        path: output, ending in `.nii` or `.nii.gz`.
        data: float32 (I, J, K) in RAS+ order on the grid `read_grid(like)`, values in [0, 1].
        like: the NIfTI file whose grid is kept.
        descrip: what the values are; at most 79 ASCII characters.

    Raises:
        DataError: `path` has another suffix, or `like` cannot be read.
        RunError: `path` cannot be written.
    """
    reference = _open(like)
    if data.shape != _canonical(reference).shape or not (data.min() >= 0 and data.max() <= 1):
        raise ValueError(f"values in [0, 1] on the grid of {like} expected, not {data.shape} from {data.min()}")
    to_stored = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.io_orientation(reference.affine)
    )
    stored = nib.apply_orientation(np.rint(data / WRITTEN_STEP).astype(np.int16), to_stored)
    header = reference.header.copy()
    header.extensions.clear()
    for text_field in ("db_name", "aux_file", "intent_name"):
        header[text_field] = b""
    header["descrip"] = descrip.encode("ascii")[:79]
    header["cal_min"], header["cal_max"] = 0, 1
    header.set_intent("none")
    header.set_data_dtype(np.int16)
    image = type(reference)(stored, None, header)  # no affine: the header's own qform and sform stay as they are
    image.header.set_slope_inter(WRITTEN_STEP, 0)
    _save(image, path)


def write_scan(path: Path, data: npt.NDArray[Any], *, affine: Affine, descrip: str) -> None:
    """Write a new scan as it stands: no reorientation, no scaling, dtype of `data`, sform and qform set (code 1), mm.

    Args:
        path: output, ending in `.nii` or `.nii.gz`.
        data: (I, J, K), int16, uint8 or float32, in the axis order of `affine`.
        affine: voxel index -> mm in RAS+; no shear.
        descrip: what the values are; at most 79 ASCII characters.

    Raises:
        DataError: `path` has another suffix. RunError: `path` cannot be written.
    """
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = descrip.encode("ascii")[:79]
    _save(image, path)


def check_name(path: Path) -> None:
    """Raise DataError unless a file can be written as NIfTI under this name."""
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError(f"{path} is no NIfTI name. Let it end in .nii or .nii.gz.")


def _save(image: Any, path: Path) -> None:
    check_name(path)
    with atomic.replacing(path) as temporary_path:
        nib.save(image, temporary_path)


def _open(path: Path) -> Any:
    """Header of a NIfTI file as a nibabel image, checked for everything that can be known without its voxels."""
    if not path.is_file():
        raise DataError(f"{path} does not exist. Check the path, or that the drive is mounted.")
    try:
        image = nib.load(path, mmap=False)
        if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is one, too
            raise DataError(f"{path} is {type(image).__name__}, not single-file NIfTI. Convert it to .nii.gz.")
        shape, affine, header = image.shape, image.affine, image.header
        sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
        dtype = header.get_data_dtype()
    except _READ_ERRORS as error:
        raise DataError(f"{path} is not a readable NIfTI file ({error}). Copy or convert it again.") from error
    if len(shape) < 3 or min(shape) < 1 or any(n != 1 for n in shape[3:]):
        raise DataError(
            f"{path} has shape {shape}; one 3-D volume is needed. Split the series, or leave this scan out."
        )
    if dtype.kind not in "iuf":
        raise DataError(f"{path} holds {dtype} values (colour or complex); export it as one grey-scale volume.")
    n_bytes = math.prod(shape) * max(dtype.itemsize, 4)
    if n_bytes > MAX_VOLUME_BYTES:
        raise DataError(
            f"{path} claims {shape} voxels, {n_bytes / 2**30:.0f} GiB in memory (limit "
            f"{MAX_VOLUME_BYTES / 2**30:.0f}). Check its header; crop or downsample it if it is real."
        )
    if sform_code == 0 and qform_code == 0:
        raise DataError(f"{path} has no orientation (sform and qform codes are 0). Convert it again from DICOM.")
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    possible = np.isfinite(affine).all() and spacing_mm.min() > 0.01 and spacing_mm.max() < 100
    if not possible or abs(np.linalg.det(affine[:3, :3] / spacing_mm)) < 1e-3:
        listed = " x ".join(f"{mm:.3g}" for mm in spacing_mm)
        raise DataError(
            f"{path} has an impossible affine (singular, or voxels of {listed} mm). Convert it again from DICOM."
        )
    return image


def _canonical(image: Any) -> Grid:
    """Grid of an opened image after reorientation to RAS+."""
    orientation = nib.io_orientation(image.affine)
    stored_shape = image.shape[:3]
    shape = [0, 0, 0]
    for stored_axis, (axis, _) in enumerate(orientation):
        shape[int(axis)] = int(stored_shape[stored_axis])
    affine = np.asarray(image.affine, dtype=np.float64) @ nib.orientations.inv_ornt_aff(orientation, stored_shape)
    return Grid((shape[0], shape[1], shape[2]), affine)
