from pathlib import Path

import nibabel
import numpy as np
import pytest

from agi_core.data.header import Grid
from agi_core.errors import DataError
from agi_core.segmentation.labels import TARGETS, check_labels, read_labels, target_mask

GRID = Grid((4, 3, 2), np.diag([1.0, 1.0, 2.0, 1.0]))


def write(path: Path, values: list[float], *, affine: np.ndarray = GRID.affine, dtype: type = np.float32) -> Path:
    data = np.zeros(24, dtype=dtype)
    data[: len(values)] = values
    nibabel.save(nibabel.Nifti1Image(data.reshape(4, 3, 2), affine), path)
    return path


@pytest.mark.parametrize("enhancing", [3, 4])
def test_labels_of_both_conventions_are_one(tmp_path: Path, enhancing: int) -> None:
    labels = read_labels(write(tmp_path / "seg.nii.gz", [1, 2, enhancing]), grid=GRID, like=Path("scan"))
    assert labels.ravel()[:4].tolist() == [1, 2, 3, 0]
    assert {name: int(target_mask(labels, name).sum()) for name in TARGETS} == {"WT": 3, "TC": 2, "ET": 1}


@pytest.mark.parametrize("values", [[], [2, 2]], ids=["nothing", "one class"])
def test_classes_may_be_empty(tmp_path: Path, values: list[float]) -> None:
    labels = read_labels(write(tmp_path / "seg.nii", values), grid=GRID, like=Path("scan"))
    assert labels.sum() == sum(values)
    assert not target_mask(labels, "ET").any()


@pytest.mark.parametrize(
    ("values", "affine", "said"),
    [
        ([1, 7], GRID.affine, "seg.nii holds the label 7; a tumour has 1"),
        ([0.5], GRID.affine, "holds the label 0.5"),
        ([1.0078125], GRID.affine, "holds the label 1.0078125;"),
        ([3, 4], GRID.affine, "holds both of the labels 3 and 4"),
        (
            [1],
            np.diag([1.0, 1.0, 1.0, 1.0]),
            "seg.nii lies on another grid (4 x 3 x 2 voxels of 1 x 1 x 1 mm from 0, 0, 0 mm on) than scan.nii (4 x 3 x",
        ),
    ],
)
def test_other_labels_are_refused(tmp_path: Path, values: list[float], affine: np.ndarray, said: str) -> None:
    with pytest.raises(DataError) as refused:
        read_labels(write(tmp_path / "seg.nii", values, affine=affine), grid=GRID, like=Path("scan.nii"))
    assert said in str(refused.value)


def test_labels_that_are_nearly_whole_numbers_are_rounded(tmp_path: Path) -> None:
    path = write(tmp_path / "seg.nii", [0.9995, 2.0001, 4.000001])
    assert read_labels(path, grid=GRID, like=Path("scan")).ravel()[:4].tolist() == [1, 2, 3, 0]


def test_bad_segmentations_are_named_at_once(tmp_path: Path) -> None:
    like = write(tmp_path / "scan.nii", [1, 2, 3])
    good, seven, five = (write(tmp_path / f"{value}.nii", [1, value]) for value in (2, 7, 5))
    assert check_labels({good: like}) == []
    with pytest.raises(DataError) as refused:
        check_labels({seven: like, good: like, five: like})
    assert f"{seven} holds the label 7" in str(refused.value)
    assert str(refused.value).endswith(f" Neither can these be used: {five}.")


def test_both_conventions_in_one_folder_are_told(tmp_path: Path) -> None:
    like = write(tmp_path / "scan.nii", [1, 2, 3])
    three, four, also = (write(tmp_path / f"{n}.nii", [1, label]) for n, label in enumerate((3, 4, 4)))
    (note,) = check_labels({three: like, four: like, also: like})
    assert note.startswith("enhancing tumour is 3 in 1 (0.nii) and 4 in 2 (1.nii) of the segmentations; since 2024")
    assert check_labels({four: like, also: like}) == []
