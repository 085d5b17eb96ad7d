"""Figures in tumours from prepared scans, beside those that `evaluate` has of files."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from agi_core.data.fingerprint import image_fingerprint
from agi_core.data.nifti import read_grid, read_volume
from agi_core.data.preprocess import align, resample, respaced
from agi_core.data.scans import Scans
from agi_core.errors import DataError
from agi_core.metric_table import SEGMENTED_METRIC_NAMES, TISSUE_METRIC_NAMES
from agi_core.scoring.pairs import find_pairs
from agi_core.scoring.tissue import Truth, files_of, segmentations, segmented_figures, tissue_figures
from agi_core.scoring.volume import score_pair
from tests.support.brats_tree import AFFINE, labels_of, save, write_subject
from tests.support.toy_segmenter import train_toy

NAME = "BraTS-GLI-00001-000"


@pytest.fixture
def scans(tmp_path: Path) -> Scans:
    write_subject(tmp_path / "real", 1, modalities=("t2f",))
    return Scans(tmp_path / "real", "brats")


def test_they_are_those_of_evaluate(scans: Scans, tmp_path: Path) -> None:
    """A prediction that is worse in the tumour than elsewhere."""
    path = scans.dir / NAME / f"{NAME}-t2f.nii.gz"
    prepared = align({"t2f": read_volume(path)}, to="t2f", spacing_mm=None, place="")
    seg = segmentations(scans)["BraTS-GLI-00001", "000"]
    truth = Truth.on(prepared.grid, seg=seg, scan=path)
    tumour = truth.tumour
    parts = ((tumour, labels_of(1) > 0), (truth.oedema, labels_of(1) == 2), (truth.enhancing, labels_of(1) == 3))
    assert all((part.transpose(2, 1, 0) == mask).all() and mask.any() for part, mask in parts)
    target = prepared.volumes[:, 0]
    made = (0.9 * target * np.where(tumour, 0.5, 1)).astype(np.float32)
    figures = tissue_figures(made, target, prepared.foreground, truth)
    assert [*figures] == [*TISSUE_METRIC_NAMES]
    save(tmp_path / "made" / NAME / path.name, made.transpose(2, 1, 0), AFFINE)
    (pair,), _ = find_pairs(scans.dir, tmp_path / "made", layout="brats")
    of_files = score_pair(pair, percentiles=True).figures
    for name in TISSUE_METRIC_NAMES:
        assert figures[name] == pytest.approx(of_files[name], abs=1e-4), name
    assert figures["mae_tumour"] > 2 * figures["mae_healthy"]
    none = np.zeros_like(tumour)
    nothing = tissue_figures(made, target, prepared.foreground, Truth(truth.scan, none, none, none))
    assert {*nothing} == {name for name in TISSUE_METRIC_NAMES if name.endswith("healthy")}


def test_what_a_network_finds_is_what_evaluate_says_of_the_same_volume(tmp_path: Path) -> None:
    """A prediction that is black in the tumour; then one on a coarser grid, which is brought back to the scan's."""
    for number in (1, 2):
        write_subject(tmp_path / "train", number + 10)
        write_subject(tmp_path / "real", number)
    scans, segmenter = Scans(tmp_path / "real", "brats"), train_toy(tmp_path / "train")
    path = scans.dir / NAME / f"{NAME}-t2f.nii.gz"
    prepared = align({"t2f": read_volume(path)}, to="t2f", spacing_mm=None, place="")
    made = prepared.volumes[:, 0] * (labels_of(1) == 0).transpose(2, 1, 0).astype(np.float32)
    visit = ("BraTS-GLI-00001", "000")
    figures, why_not = segmented_figures(
        segmenter, made, prepared.grid, files=files_of(scans), visit=visit, target="t2f", scan=path
    )
    assert ([*figures], why_not) == (sorted(SEGMENTED_METRIC_NAMES, key=[*figures].index), [])
    save(tmp_path / "made" / NAME / path.name, made.transpose(2, 1, 0), AFFINE)
    (pair,), _ = find_pairs(scans.dir, tmp_path / "made", layout="brats")
    of_files = score_pair(pair, percentiles=True, segmenter=segmenter).figures
    for name in SEGMENTED_METRIC_NAMES:
        assert figures[name] == pytest.approx(of_files[name], abs=0.02), name  # the cache has float16
    assert figures["dice_WT_synthetic"] < figures["dice_WT_ceiling"]

    coarse = respaced(prepared.grid, (4.0, 4.0, 4.0))
    halved = resample(made.transpose(2, 1, 0), prepared.grid, coarse).transpose(2, 1, 0)
    other, _ = segmented_figures(segmenter, halved, coarse, files=files_of(scans), visit=visit, target="t2f", scan=path)
    assert other["dice_WT_ceiling"] == figures["dice_WT_ceiling"]

    figures, why_not = segmented_figures(
        train_toy(scans.dir), made, prepared.grid, files=files_of(scans), visit=visit, target="t2f", scan=path
    )
    assert (figures, why_not) == ({}, ["not segmented: the subject trained the segmentation network"])

    other_visit = scans.dir / NAME.replace("-000", "-001")  # which trained it, from another file
    for file in (scans.dir / f"{NAME[:-5]}2-000").iterdir():
        image = nibabel.load(file)
        save(other_visit / file.name.replace("00002-000", "00001-001"), np.asarray(image.dataobj).astype(np.float32))
    of_it = train_toy(other_visit.parent)
    of_it.trained_on = [image_fingerprint(read_volume(next(other_visit.glob("*t1n*"))).data)]
    figures, why_not = segmented_figures(
        of_it, made, prepared.grid, files=files_of(scans), visit=visit, target="t2f", scan=path
    )
    assert (figures, why_not) == (
        {},
        ["not segmented: the subject trained the segmentation network, from another file"],
    )


def test_a_tumour_on_another_working_grid_keeps_its_size_and_a_seg_on_another_grid_is_refused(scans: Scans) -> None:
    path = scans.dir / NAME / f"{NAME}-t2f.nii.gz"
    seg, grid = segmentations(scans)["BraTS-GLI-00001", "000"], read_grid(path)
    coarse = respaced(grid, (3.0, 3.0, 3.0))
    tumour_mm3 = Truth.on(coarse, seg=seg, scan=path).tumour.sum() * 27
    assert tumour_mm3 == pytest.approx(8 * (labels_of(1) > 0).sum(), rel=0.1)
    image = nibabel.load(seg)
    save(seg, np.asarray(image.dataobj)[:-1])
    with pytest.raises(DataError, match="lies on another grid"):
        Truth.on(coarse, seg=seg, scan=path)
