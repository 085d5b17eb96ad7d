"""Classic MR series of DICOM in and out; pydicom is the extra `dicom`.

A series is believed when it is one series: slices of one size and orientation, evenly spaced along their normal. What
is written is a series of its own in the patient's study. It has the geometry of the series that it was made on, and
says in every file that it is synthetic.
"""

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from agi_core.data.header import Affine, one_line
from agi_core.data.nifti import FloatArray, read_volume, write_scan
from agi_core.errors import ConfigError, DataError
from agi_core.host import atomic
from agi_core.synthesis import OUT_OF_RANGE

NOT_FOR_DIAGNOSIS = "SYNTHETIC - not for diagnosis"
STORED_ONE = 10_000
"""The pixel value that 1 is stored as."""
_LONG_STRING, _SHORT_TEXT, _LONG_TEXT = 64, 1024, 10_240
"""The most characters of DICOM's LO, ST and LT."""

_CLASSIC_MR, _ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNEVEN = 0.02  # of the spacing: positions are text of few digits
_ALIKE = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "EchoTime", "ImageType")
"""What all slices of one volume have in common."""
_COPIED = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("PatientAge", "PatientSize", "PatientWeight", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID"),
    *("StudyDescription", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "PatientPosition"),
    *("PositionReferenceIndicator", "BodyPartExamined", "MRAcquisitionType", "Rows", "Columns", "PixelSpacing"),
    *("SliceThickness", "SpacingBetweenSlices", "SliceLocation", "ImagePositionPatient", "ImageOrientationPatient"),
)
_DAMAGED = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError),
    struct.error,
)
"""What pydicom raises for a file that is no good, when it is opened or when a value is first asked for."""
_LETTERS = {  # rows of three pixels
    "S": (7, 4, 7, 1, 7),
    "Y": (5, 5, 2, 2, 2),
    "N": (5, 7, 7, 7, 5),
    "T": (7, 2, 2, 2, 2),
    "H": (5, 5, 7, 5, 5),
    "E": (7, 4, 7, 4, 7),
    "I": (7, 2, 2, 2, 7),
    "C": (7, 4, 4, 4, 7),
}


@dataclass(frozen=True, eq=False)
class Series:
    """A volume (columns, rows, slices), voxel index -> mm in RAS+, and pydicom's data sets of the slices in order."""

    data: FloatArray
    affine: Affine
    slices: Sequence[Any]

    def write_nifti(self, path: Path) -> Path:
        """Write it in its own axis order; the path."""
        write_scan(path, self.data, affine=self.affine, descrip="")
        return path


def read_series(folder: Path) -> Series:
    """The classic MR series in a folder.

    Raises:
        ConfigError: pydicom is not installed.
        DataError: there is none, it is enhanced MR or another kind of image, its lowest value is white, there are
            several series or volumes in it, slices are missing, doubled or unevenly spaced, they are sheared (gantry
            tilt), or a file is damaged.
    """
    pydicom = _pydicom()
    try:
        slices = _images(pydicom, folder)
        _check_one_volume(folder, slices)
        return _volume(folder, slices)
    except (pydicom.errors.BytesLengthException, *_DAMAGED) as error:
        raise DataError(f"{folder} cannot be read ({one_line(error)}). Export it uncompressed, or again.") from None


def _check_one_volume(folder: Path, slices: list[Any]) -> None:
    for image in slices:
        kind = getattr(image, "SOPClassUID", "")
        if kind == _ENHANCED_MR:
            raise DataError(
                f"{folder} holds enhanced MR (all slices in one file), which is not supported. Export the series as"
                " classic MR, or convert it to NIfTI."
            )
        if kind != _CLASSIC_MR:
            raise DataError(f"{folder} holds {getattr(kind, 'name', kind) or 'images'}, not MR. Give an MR series.")
        if (told := image.PhotometricInterpretation) != "MONOCHROME2":
            raise DataError(
                f"{folder} is {told}: only images whose lowest value is black (MONOCHROME2) can be read. Export it so."
            )
        for name in (*_COPIED, "SeriesNumber", "SOPInstanceUID"):
            image.get(name)  # pydicom decodes a value when it is first asked for: a damaged one is found here
    if (count := len({image.get("SeriesInstanceUID") for image in slices})) > 1:
        raise DataError(f"{folder} holds slices of {count} series. Give each series a folder of its own.")
    for name in _ALIKE:
        if len(values := {str(image.get(name)) for image in slices}) > 1:
            raise DataError(
                f"{folder} mixes images: {name} is {' and '.join(sorted(values)[:2])}. Give one volume (one echo, one"
                " orientation) a folder of its own."
            )


def _volume(folder: Path, slices: list[Any]) -> Series:
    row, column = np.reshape([float(x) for x in slices[0].ImageOrientationPatient], (2, 3))
    normal = np.cross(row, column)
    slices = sorted(slices, key=lambda image: float(normal @ _position(image)))
    along = np.array([normal @ _position(image) for image in slices])
    gaps = np.diff(along)
    if len(slices) < 3:
        raise DataError(f"{folder} holds {len(slices)} slices; a volume of three or more is needed.")
    usual = float(np.median(gaps))
    for (image, following), gap in zip(pairwise(slices), gaps, strict=True):
        between = f"between image {image.get('InstanceNumber')} and image {following.get('InstanceNumber')}"
        if gap < _UNEVEN * usual or usual <= 0:
            raise DataError(f"{folder} holds two images of one place, {between}. Give one volume a folder of its own.")
        if gap > 1.5 * usual:
            raise DataError(
                f"{folder}: slices are missing {between} ({gap:.2f} mm, elsewhere {usual:.2f}). Copy the whole series."
            )
        if abs(gap - usual) > _UNEVEN * usual:
            raise DataError(
                f"{folder}: slices are unevenly spaced, {between} by {gap:.2f} mm, elsewhere {usual:.2f}."
                " Resample the series first."
            )
    step = (_position(slices[-1]) - _position(slices[0])) / (len(slices) - 1)
    if np.linalg.norm(step - normal * (step @ normal)) > _UNEVEN * usual:
        raise DataError(
            f"{folder}: the slices are sheared against their normal (gantry tilt), which is not supported."
            " Resample the series first."
        )
    spacing_mm = [float(size) for size in slices[0].PixelSpacing]  # of rows, of columns
    lps = np.eye(4)
    lps[:3] = np.stack([row * spacing_mm[1], column * spacing_mm[0], step, _position(slices[0])], axis=1)
    planes = [
        image.pixel_array.T * _number(image, "RescaleSlope", 1) + _number(image, "RescaleIntercept", 0)
        for image in slices
    ]
    return Series(np.stack(planes, axis=2).astype(np.float32), _LPS_TO_RAS @ lps, slices)


def write_derived(
    series: Series,
    made_path: Path,
    out_dir: Path,
    *,
    target: str,
    sources: str,
    mark: bool,
    reasons: Sequence[str] = (),
) -> None:
    """Write a synthetic volume as a new series beside the one that it lies on.

    Args:
        series: whose patient, study and geometry are copied.
        made_path: the volume as NIfTI, on the grid of `series.write_nifti`, values in [0, 1].
        out_dir: as `atomic.new_folder` wants it.
        target, sources: modalities, for the derivation's description.
        mark: write SYNTHETIC into the pixels of every slice too.
        reasons: why the sources are out of the known range, if they are; then the series' description begins with it.

    Raises:
        ConfigError: `out_dir` is not empty. RunError: it cannot be written; nothing is left there.
    """
    pydicom = _pydicom()
    values = _in_order_of(series, made_path)
    uid = pydicom.uid.generate_uid
    described = f"{OUT_OF_RANGE}: {NOT_FOR_DIAGNOSIS} {target}" if reasons else f"{NOT_FOR_DIAGNOSIS} {target}"
    derived = f"{target} synthesised from {sources} by AGI-Fed; {NOT_FOR_DIAGNOSIS}"
    comments = "\r\n".join([NOT_FOR_DIAGNOSIS, *(f"out of known range: {reason}" for reason in reasons)])
    shared = {
        "SOPClassUID": _CLASSIC_MR,
        "Modality": "MR",
        "Manufacturer": "AGI-Fed",
        "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
        "SeriesInstanceUID": uid(),
        "SeriesNumber": 9000 + int(series.slices[0].get("SeriesNumber") or 0) % 1000,
        "SeriesDescription": described[:_LONG_STRING],
        "DerivationDescription": derived[:_SHORT_TEXT],
        "ImageComments": comments[:_LONG_TEXT],
        "BurnedInAnnotation": "YES" if mark else "NO",
        **{"ScanningSequence": "RM", "SequenceVariant": "NONE", "ScanOptions": ""},
        **{"RepetitionTime": None, "EchoTime": None, "EchoTrainLength": None},
        **{"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 0},
        **{"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15},
        **{"WindowCenter": STORED_ONE / 2, "WindowWidth": STORED_ONE},
    }
    planes = zip(series.slices, np.moveaxis(values, 2, 0), strict=True)
    with atomic.new_folder(out_dir) as new_dir:
        for number, (image, plane) in enumerate(planes, start=1):
            made = pydicom.Dataset()
            for name in _COPIED:
                if name in image:
                    made[name] = image[name]
            for name, value in shared.items():
                setattr(made, name, value)
            made.SOPInstanceUID, made.InstanceNumber = uid(), number
            source = pydicom.Dataset()
            source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
            made.SourceImageSequence = [source]
            pixels = np.rint(plane.T * STORED_ONE).astype("<u2")
            made.PixelData = (marked(pixels) if mark else pixels).tobytes()
            made.file_meta = pydicom.dataset.FileMetaDataset()
            made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
            with atomic.replacing(new_dir / f"{number:04d}.dcm") as path:
                pydicom.dcmwrite(path, made, enforce_file_format=True)


def marked(pixels: Any) -> Any:
    """Rows and columns of a slice with the word SYNTHETIC in its upper left corner, as large as fits."""
    letters = [[[row >> bit & 1 for bit in (2, 1, 0)] + [0] for row in _LETTERS[letter]] for letter in "SYNTHETIC"]
    word = np.concatenate([np.array(letter) for letter in letters], axis=1)
    size = max(1, min((pixels.shape[1] - 2) // (2 * word.shape[1]), (pixels.shape[0] - 2) // word.shape[0]))
    word = np.kron(word, np.ones((size, size), dtype=int))[: pixels.shape[0] - 2, : pixels.shape[1] - 2]
    result = pixels.copy()
    corner = result[1 : 1 + word.shape[0], 1 : 1 + word.shape[1]]
    corner[:] = word * STORED_ONE
    return result


def _in_order_of(series: Series, made_path: Path) -> FloatArray:
    """The volume in the axis order of the series."""
    volume = read_volume(made_path)
    to_ras = np.rint(np.linalg.inv(volume.affine) @ series.affine)[:3, :3]
    axes = np.abs(to_ras).argmax(axis=0)
    flips = tuple(slice(None, None, -1 if to_ras[axes[axis], axis] < 0 else 1) for axis in range(3))
    in_order: FloatArray = volume.data.transpose(axes)[flips]
    return in_order


def _images(pydicom: Any, folder: Path) -> list[Any]:
    images, others = {}, {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            read = pydicom.dcmread(path)
        except (pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException, *_DAMAGED):
            read = None
        if read is not None and "PixelData" in read:
            images[path] = read
        else:
            others[path] = read
    if not images:
        raise DataError(f"{folder} holds no DICOM image. Give the folder with the files of one series.")
    suffixes = {path.suffix for path in images}
    for path, read in others.items():
        if _was_an_image(path, read, suffixes=suffixes):
            raise DataError(
                f"{path} is empty, cut off or damaged. Copy the series again: its volume would lack a slice."
            )
    return [*images.values()]


def _was_an_image(path: Path, read: Any, *, suffixes: Collection[str]) -> bool:
    """Whether a file without pixels is what an interrupted copy leaves of a slice: it says that it is an MR image, or
    cannot be read and is called like one. `read` is its data set, if any; `suffixes` are those of the images."""
    if read is None:
        return path.suffix in suffixes and (path.suffix != "" or any(map(str.isdigit, path.name)))
    told = (read.get("SOPClassUID"), getattr(read, "file_meta", {}).get("MediaStorageSOPClassUID"))
    return any(str(one) in (_CLASSIC_MR, _ENHANCED_MR) for one in told)


def _number(image: Any, name: str, default: float) -> np.float32:
    """A number of a slice; the default where it is missing or empty."""
    value = image.get(name)
    return np.float32(default if value in (None, "") else value)


def _position(image: Any) -> Any:
    return np.array([float(x) for x in image.ImagePositionPatient])


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError:
        raise ConfigError("a folder as source is a DICOM series, which needs: pip install '.[dicom]'") from None
    return pydicom
