"""What a NIfTI header says: where its voxels are, in which space, and what is odd about that. NIfTI-1 and NIfTI-2.

A header may place its voxels twice, by its sform and by its qform. `_placement` decides which one is used, and is the
only place that does. What is odd but not hopeless comes along as a `Doubt`; what cannot be believed is refused.
"""

import logging
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Self

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from agi_core.errors import DataError

Affine = npt.NDArray[np.float64]

MAX_VOLUME_BYTES = 4 * 2**30
"""Largest volume that is read, in memory: a broken or hostile header must not claim more than the machine has."""

READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
)
"""What nibabel, gzip and the file system raise where a file cannot be read."""

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what it repairs is a doubt, what matters raises

SCANNER, TEMPLATES = "scanner", ("Talairach", "MNI152", "template")
_SPACES = dict(enumerate((SCANNER, "aligned", *TEMPLATES), start=1))  # by sform_code and qform_code
_UNIT_MM = {1: 1e3, 3: 1e-3}  # of xyzt_units: metres and microns; everything else is mm
_POSSIBLE_MM = (0.01, 100)  # spacing; beyond, a header is refused
_USUAL_SPACING_MM, _USUAL_EXTENT_MM = (0.1, 15), (30, 600)  # of an MR scan of a head


@dataclass(frozen=True)
class Doubt:
    """Something odd about a scan: `cause` is the same text for the same cause, `found` is what this scan has."""

    cause: str
    found: str

    def __str__(self) -> str:
        return f"{self.cause} ({self.found})"


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume are: shape (I, J, K) in RAS+ order, and voxel index -> mm.

    `space` is what the header calls these mm: `SCANNER`, one of `TEMPLATES`, "aligned", or "" where it is not known.
    """

    shape: tuple[int, int, int]
    affine: Affine
    doubts: tuple[Doubt, ...] = ()
    space: str = ""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing along I (right), J (anterior) and K (superior)."""
        i, j, k = _spacing_mm(self.affine)
        return float(i), float(j), float(k)


@dataclass(frozen=True, eq=False)
class Header:
    """A header that was believed: `fields` is nibabel's, `affine` is that of the stored axes."""

    image_class: Any
    fields: Any
    shape: tuple[int, int, int]
    affine: Affine
    doubts: tuple[Doubt, ...]
    space: str

    @cached_property
    def orientation(self) -> Any:
        """From the stored axes to RAS+, as nibabel writes it."""
        return nib.io_orientation(self.affine)

    @property
    def grid(self) -> Grid:
        """The grid after reorientation to RAS+."""
        shape = [0, 0, 0]
        for stored_axis, (axis, _) in enumerate(self.orientation):
            shape[int(axis)] = self.shape[stored_axis]
        affine = self.affine @ nib.orientations.inv_ornt_aff(self.orientation, self.shape)
        return Grid((shape[0], shape[1], shape[2]), affine, self.doubts, self.space)


@np.errstate(all="ignore")
def read_header(path: Path, file: Any) -> Header:
    """The header of a NIfTI file, checked for everything that can be known without its voxels."""
    try:
        block = file.read(nib.Nifti2Header.sizeof_hdr)
        image_class = next(
            (kind for kind in (nib.Nifti2Image, nib.Nifti1Image) if kind.header_class.may_contain_header(block)), None
        )
        if image_class is None:
            markup = block.lstrip().startswith(b"<")
            what = "is a web page" if markup else "has no header of NIfTI-1 or NIfTI-2" if block else "is empty"
            raise DataError(
                f"{path} is not a readable NIfTI file (it {what}). Copy or download it again; a scan in another format"
                " has to be converted to .nii.gz."
            )
        block = block[: image_class.header_class.sizeof_hdr]
        stored, fields = (image_class.header_class(block, check=check) for check in (False, True))
        if fields["magic"].item() != fields.single_magic:
            raise DataError(f"{path} is one half of a pair .hdr and .img. Convert both to one .nii.gz.")
        shape, dtype = fields.get_data_shape(), fields.get_data_dtype()
        fields.get_data_offset(), fields.get_slope_inter()
    except READ_ERRORS as error:
        raise DataError(
            f"{path} is not a readable NIfTI file ({one_line(error)}). Copy or convert it again."
        ) from error
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
    if np.isinf(stored["scl_slope"]):
        raise DataError(f"{path} scales its values by infinity (scl_slope). Convert it again from DICOM.")
    affine, doubts, space = _placement(path, stored, fields, shape=shape[:3])
    return Header(image_class, fields, shape[:3], affine, doubts, space)


def one_line(error: Exception) -> str:
    """The text of an error of nibabel, whose messages have line breaks."""
    return " ".join(str(error).split())


@dataclass(frozen=True, eq=False)
class _Form:
    """One of the two ways in which a header says where its voxels are; `fault`: why it cannot be used, "" if it can."""

    name: str
    code: int
    affine: Affine
    unit_mm: float
    fault: str

    @classmethod
    def of(cls, name: str, code: int, affine: Affine, *, unit_mm: float, fault: str = "") -> Self:
        """A form as it is stored, brought to mm. A unit that makes a possible voxel impossible is left aside."""
        in_mm = np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ affine
        if _impossible(in_mm) and not _impossible(affine):
            in_mm, unit_mm = affine, 1.0
        if code not in _SPACES:
            fault = f"has the unknown code {code}" if code else "is not set (code 0)"
        return cls(name, code, in_mm, unit_mm, fault or _impossible(in_mm))


def _placement(
    path: Path, stored: Any, fields: Any, *, shape: tuple[int, int, int]
) -> tuple[Affine, tuple[Doubt, ...], str]:
    """The affine of the stored axes by which a header is understood, what is doubtful about it, and its space.

    The sform is used where it is set, else the qform, as nibabel does. There are two exceptions: the sform is unusable,
    or it contradicts the qform and is the identity, which programs write that know no geometry. A form that was not
    believed gets code 0 in `fields`, so that nobody meets it in what is written from them.

    Args:
        stored: nibabel's header as it is in the file.
        fields: the same with nibabel's repairs.

    Raises:
        DataError: neither form can be used.
    """
    sform = _Form.of("sform", int(stored["sform_code"]), stored.get_sform(), unit_mm=_unit_mm(stored))
    qform = _qform(stored, fields)
    if sform.fault and qform.fault:
        raise DataError(
            f"{path} has no orientation that can be believed: its sform {sform.fault}, its qform {qform.fault}. "
            "Convert it again from DICOM."
        )
    doubts = []
    used, other = (qform, sform) if sform.fault else (sform, qform)
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in shape))]).T
    if other.fault:
        fields[f"{other.name}_code"] = 0
        if other.code:
            doubts.append(Doubt(f"the {other.name} is unusable; the {used.name} is used", f"it {other.fault}"))
    elif np.abs((np.linalg.inv(sform.affine) @ qform.affine - np.eye(4)) @ corners).max() > 1:
        if np.array_equal(sform.affine, np.eye(4)):
            used, fields["sform_code"] = qform, 0
        apart_mm = np.linalg.norm(((sform.affine - qform.affine) @ corners)[:3], axis=0).max()
        cause = f"sform and qform place the scan more than a voxel apart; the {used.name} is used"
        spaces = f"sform: {_SPACES[sform.code]}, qform: {_SPACES[qform.code]}"
        doubts.append(Doubt(cause, f"up to {apart_mm:.1f} mm; {spaces}"))
    if not (stored["pixdim"][1:4] > 0).all():
        fields["pixdim"][1:4] = _spacing_mm(used.affine) / used.unit_mm
    doubts += _odd_fields(used, stored, shape=shape)
    return used.affine, tuple(doubts), _SPACES[used.code]


def _odd_fields(used: _Form, stored: Any, *, shape: tuple[int, int, int]) -> Iterator[Doubt]:
    """What is odd about a header, apart from a contradiction of its two forms."""
    spacing_mm, pixdim_mm = _spacing_mm(used.affine), np.abs(stored["pixdim"][1:4]) * used.unit_mm
    if stored["qform_code"] == 0 and (np.abs(spacing_mm - pixdim_mm) * shape > pixdim_mm).any():
        found = f"{_listed(spacing_mm)} and {_listed(pixdim_mm)} mm"
        yield Doubt("sform and pixdim have different voxel sizes; the sform is used", found)
    if used.name == "qform" and stored["pixdim"][0] not in (-1, 0, 1):
        yield Doubt("pixdim[0] is neither 1 nor -1; its sign is used", f"{stored['pixdim'][0]:g}")
    if used.unit_mm != _unit_mm(stored):
        yield Doubt("the unit is not mm, but the voxels are; mm is used", f"{_listed(spacing_mm)} mm")
    if np.array_equal(used.affine, np.eye(4)):
        yield Doubt("the affine is the identity: a program wrote it that knew no geometry", f"{shape} voxels")
    if spacing_mm.min() < _USUAL_SPACING_MM[0] or spacing_mm.max() > _USUAL_SPACING_MM[1]:
        yield Doubt("the voxels are not those of a head scan", f"{_listed(spacing_mm)} mm")
    extent_mm = spacing_mm * shape
    if extent_mm.min() < _USUAL_EXTENT_MM[0] or extent_mm.max() > _USUAL_EXTENT_MM[1]:
        yield Doubt("the field of view is not that of a head scan", f"{_listed(extent_mm)} mm")
    dtype = stored.get_data_dtype()
    if stored["bitpix"] != dtype.itemsize * 8:
        yield Doubt(
            "datatype and bitpix contradict each other; the datatype is used", f"{dtype}, {stored['bitpix']} bits"
        )


def _unit_mm(stored: Any) -> float:
    return _UNIT_MM.get(int(stored["xyzt_units"]) & 7, 1.0)


def _qform(stored: Any, fields: Any) -> _Form:
    """The qform. nibabel takes a pixdim of 0 for 1 mm and drops the sign of a negative one; both are faults here, since
    such a header does not know its voxel size, or means a flip."""
    fault, affine = "", np.eye(4)
    pixdim = stored["pixdim"]
    fields["pixdim"][0] = -1 if pixdim[0] < 0 else 1  # as in the NIfTI-1 standard
    if not (pixdim[1:4] > 0).all():
        fault = f"has voxels of {_listed(pixdim[1:4])} mm"
    else:
        try:
            affine = fields.get_qform()
        except (ValueError, HeaderDataError):
            fault = "is no rotation"
    return _Form.of("qform", int(stored["qform_code"]), affine, unit_mm=_unit_mm(stored), fault=fault)


def _impossible(affine: Affine) -> str:
    """Why an affine cannot be that of a scan; "" if it can."""
    if not np.isfinite(affine).all():
        return "is not finite"
    spacing_mm = _spacing_mm(affine)
    if not abs(np.linalg.det(affine[:3, :3] / spacing_mm)) > 1e-3:  # NaN where a column is zero
        return "is singular"
    possible = spacing_mm.min() > _POSSIBLE_MM[0] and spacing_mm.max() < _POSSIBLE_MM[1]
    return "" if possible else f"has voxels of {_listed(spacing_mm)} mm"


def _spacing_mm(affine: Affine) -> npt.NDArray[np.float64]:
    """Voxel spacing along each array axis."""
    spacing_mm: npt.NDArray[np.float64] = np.linalg.norm(affine[:3, :3], axis=0)
    return spacing_mm


def _listed(sizes: npt.NDArray[Any]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes)
