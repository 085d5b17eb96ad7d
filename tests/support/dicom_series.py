"""Small classic MR series of DICOM, as a scanner writes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSIC_MR = "1.2.840.10008.5.1.4.1.1.4"
OBLIQUE = np.array([[0.98, 0.1, 0.17], [-0.12, 0.99, 0.08]])
SPACING_MM, GAP_MM = (1.1, 0.9), 4.0


def write_series(folder: Path, data: Any, *, study: str = "", tilt_mm: float = 0, **fields: Any) -> Path:
    """Write (rows, columns, slices) of whole numbers as one oblique series; file names are in no order."""
    row = OBLIQUE[0] / np.linalg.norm(OBLIQUE[0])
    column = OBLIQUE[1] - row * (row @ OBLIQUE[1])
    column /= np.linalg.norm(column)
    step = np.cross(row, column) * GAP_MM + column * tilt_mm
    study, series, frame = study or generate_uid(), generate_uid(), generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(data.shape[2]):
        image = pydicom.Dataset()
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        values: dict[str, Any] = {
            **{"SOPClassUID": CLASSIC_MR, "SOPInstanceUID": generate_uid(), "Modality": "MR"},
            **{"PatientName": "Doe^Jane", "PatientID": "P1", "PatientBirthDate": "19700101", "PatientSex": "F"},
            **{"StudyInstanceUID": study, "SeriesInstanceUID": series, "FrameOfReferenceUID": frame},
            **{"StudyDate": "20260101", "StudyTime": "101010", "StudyID": "1", "AccessionNumber": "A1"},
            **{"SeriesNumber": 3, "InstanceNumber": k + 1, "SeriesDescription": "t2", "EchoTime": "90"},
            **{"ImageType": ["ORIGINAL", "PRIMARY"], "PatientPosition": "HFS", "OperatorsName": "Somebody"},
            "ImagePositionPatient": [f"{x:.6f}" for x in np.array([-20.0, -25.0, 11.0]) + k * step],
            "ImageOrientationPatient": [f"{x:.9f}" for x in (*row, *column)],
            **{"PixelSpacing": [*SPACING_MM], "SliceThickness": GAP_MM, "Rows": data.shape[0]},
            **{"Columns": data.shape[1], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
            **{"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0},
            "PixelData": data[:, :, k].astype("<u2").tobytes(),
            **fields,
        }
        for name, value in values.items():
            setattr(image, name, value)
        pydicom.dcmwrite(folder / f"{(7 * k + 3) % 97:02d}", image, enforce_file_format=True)
    return folder


def head(seed: int, shape: tuple[int, int, int] = (44, 40, 9)) -> Any:
    """A head-like ellipsoid of whole numbers, not symmetric, in noise."""
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    noise = np.random.default_rng(seed).random(shape)
    inside = (i - 0.1) ** 2 / 0.6 + j**2 / 0.5 + k**2 < 1
    return np.rint(20 * noise + 600 * inside * (1 + 0.4 * np.sin(5 * i + seed) * np.cos(4 * j - k)))
