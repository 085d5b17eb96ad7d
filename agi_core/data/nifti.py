"""NIfTI files in and out, NIfTI-1 and NIfTI-2; `header` says where their voxels are.

Every volume is handed on in closest-canonical RAS+ orientation: array axes (I, J, K) run to the patient's right,
anterior and superior; `affine` (float64) maps a voxel index to mm. `write_volumes` goes back to the stored orientation.
"""

import gzip
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.arrayproxy import ArrayProxy

from agi_core.data.header import MAX_VOLUME_BYTES, READ_ERRORS, Affine, Doubt, Grid, Header, one_line, read_header
from agi_core.errors import DataError
from agi_core.host import atomic

FloatArray = npt.NDArray[np.float32]

WRITTEN_STEP = 1e-4
"""Value of one stored integer in files by `write_volumes` (`scl_slope`): 0..1 is stored as 0..10000."""

_CHUNK_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3-D image: float32 (I, J, K) in RAS+ order, slope and intercept applied; affine, doubts and space as of
    `Grid`."""

    data: FloatArray
    affine: Affine
    doubts: tuple[Doubt, ...] = ()
    space: str = ""

    @property
    def grid(self) -> Grid:
        i, j, k = self.data.shape
        return Grid((i, j, k), self.affine, self.doubts, self.space)


@np.errstate(all="ignore")  # what overflows is not finite, and refused
def read_volume(path: Path, content: bytes | None = None, *, constant: bool = False) -> Volume:
    """Read one 3-D NIfTI file, to its end: gzip's checksum is checked.

    Args:
        content: the file's bytes, where they were read before (`read_content`).
        constant: whether all voxels may have one value, as in a segmentation of nothing.

    Raises:
        DataError: the file is missing, broken, not one 3-D volume of real numbers, larger than `MAX_VOLUME_BYTES`,
            holds more voxels than its header says, has no orientation that can be believed, holds NaN or infinity, or
            is constant and may not be.
    """
    with _open(path, content) as file:
        header = read_header(path, file)
        try:
            data = np.asanyarray(ArrayProxy(file, header.fields, mmap=False), dtype=np.float32)
            surplus = _bytes_left(file, limit=data[:, :, 0].size * header.fields.get_data_dtype().itemsize)
        except READ_ERRORS as error:
            raise DataError(
                f"{path} cannot be read to its end ({one_line(error)}); it is damaged, probably truncated. Copy or "
                "download it again."
            ) from error
    if surplus:
        raise DataError(
            f"{path} holds more voxels than the {header.shape} of {header.fields.get_data_dtype()} in its header. "
            "Convert it again from DICOM."
        )
    if not np.isfinite(data).all():
        count = int((~np.isfinite(data)).sum())
        raise DataError(f"{path} holds NaN or infinity in {count} voxels. Export it again, or leave this scan out.")
    if data.min() == data.max() and not constant:
        raise DataError(f"{path} is constant: every voxel is {data.min():g}. Export it again, or leave this scan out.")
    data = nib.apply_orientation(data.reshape(header.shape), header.orientation)
    return Volume(np.ascontiguousarray(data), header.grid.affine, header.doubts, header.space)


def read_grid(path: Path) -> Grid:
    """Read shape, affine and doubts from the header alone, in RAS+ order. Raises DataError as `read_volume` does."""
    with _open(path) as file:
        return read_header(path, file).grid


def read_descrip(path: Path) -> str:
    """The free text of a header that says what the values are. Raises DataError as `read_volume` does."""
    with _open(path) as file:
        return bytes(read_header(path, file).fields["descrip"].item()).decode("ascii", "replace")


def read_content(path: Path) -> bytes:
    """All bytes of a file, as it is stored.

    Raises:
        DataError: the file is missing, cannot be read, or is too large for a volume of `MAX_VOLUME_BYTES`.
    """
    with _open_stored(path) as file, _told(path):
        if file.seek(0, 2) > MAX_VOLUME_BYTES:
            raise DataError(f"{path} is larger than any scan that is read ({MAX_VOLUME_BYTES / 2**30:.0f} GiB).")
        file.seek(0)
        content: bytes = file.read()
    return content


def write_volumes(volumes: Mapping[Path, tuple[FloatArray, str]], *, like: Path, comment: str = "") -> None:
    """Write synthesised volumes on the grid of an existing file; all of them, or none where one cannot be written.

    Format (NIfTI-1 or NIfTI-2), orientation, axis order, qform, sform, their codes, spacing and units are those of
    `like`; a form that was not believed gets code 0. Free-text fields and header extensions are not copied, since they
    may name a person. Stored as int16 with slope `WRITTEN_STEP`.

    Args:
        volumes: by output path, which ends in `.nii` or `.nii.gz`: float32 (I, J, K) in RAS+ order on the grid
            `read_grid(like)`, values in [0, 1]; and what the values are, at most 79 ASCII characters.
        like: the NIfTI file whose grid is kept.
        comment: what else a reader should know, as a header extension (code 6).

    Raises:
        DataError: a path has another suffix, or `like` cannot be read.
        RunError: a path cannot be written.
    """
    with _open(like) as file:
        reference = read_header(like, file)
    with ExitStack() as stack:  # at its end the files get their names
        for path, (data, descrip) in volumes.items():
            check_name(path)
            image = _synthetic(reference, data, descrip=descrip, comment=comment)
            nib.save(image, stack.enter_context(atomic.replacing(path)))


def _synthetic(reference: Header, data: FloatArray, *, descrip: str, comment: str) -> Any:
    """nibabel's image of a volume; see `write_volumes`."""
    if data.shape != reference.grid.shape or not (data.min() >= 0 and data.max() <= 1):
        expected = f"values in [0, 1] on the grid of {reference.grid.shape} voxels"
        raise ValueError(f"{expected} expected, not {data.shape} from {data.min()}")
    to_stored = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), reference.orientation)
    stored = nib.apply_orientation(np.rint(data / WRITTEN_STEP).astype(np.int16), to_stored)
    header = reference.fields  # without the file's extensions
    for text_field in {"db_name", "aux_file", "intent_name"} & set(header):
        header[text_field] = b""
    header["descrip"] = descrip.encode("ascii")[:79]
    header["cal_min"], header["cal_max"] = 0, 1
    header.set_intent("none")
    header.set_data_dtype(np.int16)
    image = reference.image_class(stored, None, header)  # no affine: the header's own qform and sform stay as they are
    image.header.set_slope_inter(WRITTEN_STEP, 0)
    if comment:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", comment.encode()))
    return image


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


def with_small_suffix(path: Path) -> Path:
    """The path with `.nii` or `.nii.gz` at its end, where the name of a scan may have other letters, `.NII.GZ`."""
    name = re.sub(r"\.nii(\.gz)?$", lambda suffix: suffix[0].lower(), path.name, flags=re.IGNORECASE)
    return path.with_name(name)


def _save(image: Any, path: Path) -> None:
    check_name(path)
    with atomic.replacing(path) as temporary_path:
        nib.save(image, temporary_path)


@contextmanager
def _open(path: Path, content: bytes | None = None) -> Iterator[Any]:
    """The uncompressed bytes of a file, whatever its suffix says."""
    with _open_stored(path) if content is None else io.BytesIO(content) as stored:
        with _told(path):
            is_compressed = stored.read(2) == b"\x1f\x8b"
            stored.seek(0)
        with gzip.GzipFile(fileobj=stored) if is_compressed else stored as file:
            yield file


def _open_stored(path: Path) -> BinaryIO:
    with _told(path):
        if not path.is_file():
            raise DataError(f"{path} does not exist. Check the path, or that the drive is mounted.")
        return path.open("rb")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check its permissions, and the drive.") from error


def _bytes_left(file: Any, *, limit: int) -> bool:
    """Read a file to its end; whether `limit` bytes or more were left. Fewer are padding."""
    count = 0
    while chunk := file.read(_CHUNK_BYTES):
        count += len(chunk)
        if count >= limit:
            return True
    return False
