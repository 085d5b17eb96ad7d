from pathlib import Path

import pytest

from agi_core.bids import derivative_path
from agi_core.errors import ConfigError, DataError
from agi_core.scoring.pairs import find_pairs
from tests.support.brats_tree import AFFINE, read, save, write_subject
from tests.support.small_data import write_head

NAMES = [f"BraTS-GLI-{number:05}-000" for number in range(1, 4)]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three subjects, the third without a segmentation; the synthetic t2f of the first two in one flat folder."""
    for number in (1, 2, 3):
        write_subject(tmp_path / "data", number, modalities=("t1n", "t2f"), seg=number < 3)
    for name in NAMES[:2]:
        save(tmp_path / "made" / f"{name}-t2f.nii.gz", read(tmp_path / "data" / name / f"{name}-t2f.nii.gz") + 1)
    return tmp_path / "data", tmp_path / "made"


def test_pairs_by_name_and_what_is_missing_is_told(folders: tuple[Path, Path]) -> None:
    data, made = folders
    pairs, notes = find_pairs(data, made, layout="brats")
    assert [(p.subject, p.session, p.modality) for p in pairs] == [(name[:-4], "000", "t2f") for name in NAMES[:2]]
    assert pairs[0].real == data / NAMES[0] / f"{NAMES[0]}-t2f.nii.gz"
    assert pairs[0].synthetic == made / f"{NAMES[0]}-t2f.nii.gz"
    assert pairs[0].seg == data / NAMES[0] / f"{NAMES[0]}-seg.nii.gz"
    assert notes == ["no synthetic volume, and so not scored: 1 (BraTS-GLI-00003 000)"]
    assert find_pairs(data, made, layout="brats", left_out=["BraTS-GLI-00003"])[1] == []


def test_volumes_without_counterpart_or_segmentation_are_told(folders: tuple[Path, Path]) -> None:
    data, made = folders
    for name in (NAMES[2], "BraTS-GLI-00009-000"):
        save(made / f"{name}-t2f.nii.gz", read(made / f"{NAMES[0]}-t2f.nii.gz"))
    pairs, notes = find_pairs(data, made, layout="brats", target="t2f")
    assert [p.seg is None for p in pairs] == [False, False, True]
    assert notes == [
        "no real scan to score the synthetic volume against: 1 (BraTS-GLI-00009 000)",
        "no segmentation, and so no figures of tumour and healthy tissue: 1 (BraTS-GLI-00003 000)",
    ]


def test_each_subject_may_miss_another_modality(folders: tuple[Path, Path]) -> None:
    """As in the challenge."""
    data, made = folders
    (made / f"{NAMES[1]}-t2f.nii.gz").rename(made / f"{NAMES[1]}-t1n.nii.gz")
    pairs, notes = find_pairs(data, made, layout="brats")
    assert [p.modality for p in pairs] == ["t2f", "t1n"]
    missing = "no synthetic volume, and so not scored: 1 (BraTS-GLI-00003 000)"
    assert notes == [missing, "means over t1n and t2f together; --target takes one"]


def test_a_modality_that_one_visit_lacks_is_told(folders: tuple[Path, Path]) -> None:
    data, made = folders
    save(made / f"{NAMES[0]}-t1n.nii.gz", read(made / f"{NAMES[0]}-t2f.nii.gz"))
    assert find_pairs(data, made, layout="brats", left_out=["BraTS-GLI-00003"])[1] == [
        "no synthetic t1n, and so not scored: 1 (BraTS-GLI-00002 000)",
        "means over t1n and t2f together; --target takes one",
    ]


def test_what_cannot_be_paired_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    data, made = folders
    with pytest.raises(DataError, match=r"no synthetic t1c named as in the brats layout.*there is t2f"):
        find_pairs(data, made, layout="brats", target="t1c")
    with pytest.raises(DataError, match="is the real scan itself"):
        find_pairs(data, data, layout="brats", target="t2f")
    with pytest.raises(DataError, match=r"no volume .* has a real counterpart .*: 2 \(BraTS-GLI-00001 000, .* there"):
        find_pairs(data / NAMES[2], made, layout="brats")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there, none here"):
        find_pairs(tmp_path / "empty", made, layout="brats")
    with pytest.raises(DataError, match="cannot read the folder"):
        find_pairs(tmp_path / "nowhere", made, layout="brats")
    with pytest.raises(ConfigError, match="unknown layout 'dicom'"):
        find_pairs(data, made, layout="dicom")
    save(made / f"{NAMES[0]}-t2f.nii", read(made / f"{NAMES[0]}-t2f.nii.gz"), AFFINE)
    with pytest.raises(DataError, match="are the same modality of one visit"):
        find_pairs(data, made, layout="brats")


def scan(folder: Path, *entities: str) -> Path:
    path = folder / "sub-01" / "anat" / f"{'_'.join(['sub-01', *entities])}.nii.gz"
    write_head(path, seed=1, contrast=1)
    return path


def test_a_scan_with_contrast_is_no_counterpart_of_one_without(tmp_path: Path) -> None:
    """In BIDS an entity may change what a scan shows; how a volume was made does not."""
    made = scan(tmp_path / "made", "ce-gadolinium", "desc-synth", "T1w")
    plain = scan(tmp_path / "real", "acq-fast", "T1w")
    with pytest.raises(DataError, match=r"no volume of .* has a real counterpart"):
        find_pairs(tmp_path / "real", tmp_path / "made", layout="bids")
    real = scan(tmp_path / "real", "ce-gadolinium", "T1w")
    (pair,), _ = find_pairs(tmp_path / "real", tmp_path / "made", layout="bids", target="T1w[ce-gadolinium]")
    assert (pair.synthetic, pair.real, [*pair.others.values()]) == (made, real, [plain])
    link = plain.with_name("sub-01_run-2_T1w.nii.gz")
    link.symlink_to(plain)
    also = scan(tmp_path / "made", "desc-synth", "T1w")
    pairs, _ = find_pairs(tmp_path / "real", tmp_path / "made", layout="bids")
    assert {pair.synthetic: pair.real for pair in pairs}.keys() == {made, also}


def test_a_link_to_itself_or_to_nothing_is_no_scan(tmp_path: Path) -> None:
    made, real = scan(tmp_path / "made", "desc-synth", "T1w"), scan(tmp_path / "real", "T1w")
    for number, target in ((2, "sub-01_run-2_T1w.nii.gz"), (3, "nothing.nii.gz")):
        real.with_name(f"sub-01_run-{number}_T1w.nii.gz").symlink_to(target)
    (pair,), _ = find_pairs(tmp_path / "real", tmp_path / "made", layout="bids")
    assert (pair.synthetic, pair.real) == (made, real)


def test_a_synthetic_scan_stands_for_one_that_was_made_from_others(tmp_path: Path) -> None:
    """fMRIPrep calls real scans `desc-preproc`; a synthetic one is `desc-synth` instead, or named like the real one."""
    real, synthetic = tmp_path / "real", tmp_path / "synthetic"
    preproc = scan(real, "desc-preproc", "FLAIR")
    made = scan(synthetic, "desc-synth", "FLAIR")
    assert derivative_path(synthetic, like=preproc, target="FLAIR[desc-preproc]") == made

    def found(*, target: str | None = None) -> list[tuple[str, Path, Path]]:
        pairs, _ = find_pairs(real, synthetic, layout="bids", target=target)
        return [(pair.modality, pair.synthetic, pair.real) for pair in pairs]

    assert found() == found(target="FLAIR[desc-preproc]") == [("FLAIR[desc-preproc]", made, preproc)]
    plain = scan(real, "FLAIR")
    assert found() == found(target="FLAIR") == [("FLAIR", made, plain)]
    assert found(target="FLAIR[desc-preproc]") == [("FLAIR[desc-preproc]", made, preproc)]
    alike = scan(synthetic, "desc-preproc", "FLAIR")
    assert found() == [("FLAIR", made, plain), ("FLAIR[desc-preproc]", alike, preproc)]
    assert found(target="FLAIR") == [("FLAIR", made, plain)]
    plain.rename(plain.with_name("sub-01_desc-brain_FLAIR.nii.gz"))
    with pytest.raises(DataError, match=r"may stand for FLAIR\[desc-brain\] or FLAIR\[desc-preproc\]; choose one"):
        found()
