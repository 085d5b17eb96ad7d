import gzip
from pathlib import Path

import numpy as np
import pytest

from agi_core.errors import DataError
from agi_core.report.evaluation_page import write_page
from agi_core.scoring.evaluation import Evaluation, evaluate, text_of
from agi_core.scoring.pairs import Pair, find_pairs
from agi_core.segmentation.segmenter import Segmenter
from tests.support.brats_tree import AFFINE, read, save, write_subject
from tests.support.toy_segmenter import train_toy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    root = tmp_path_factory.mktemp("train")
    write_subject(root, 1)
    write_subject(root, 2)
    return train_toy(root)


def evaluated(root: Path, segmenter: Segmenter, *, numbers: tuple[int, ...]) -> Evaluation:
    """A synthetic t2f that is the real one with a little noise."""
    for number in numbers:
        name = write_subject(root / "data", number)
        real = read(root / "data" / name / f"{name}-t2f.nii.gz")
        noise = np.random.default_rng(number).normal(0, 2, real.shape)
        save(root / "made" / f"{name}-t2f.nii.gz", np.where(real > 0, real + noise, 0).astype(np.float32))
    return evaluate(find_pairs(root / "data", root / "made", layout="brats")[0], notes=[], segmenter=segmenter)


def test_the_four_rows_and_the_recovered_share(trained: Segmenter, tmp_path: Path) -> None:
    result = evaluated(tmp_path, trained, numbers=(11, 12, 13))
    means = {name: mean.mean for name, mean in result.means.items()}
    ceiling, floor, synthetic = (means[f"dice_WT_{row}"] for row in ("ceiling", "floor", "synthetic"))
    assert ceiling > floor + 0.05
    assert synthetic == pytest.approx(ceiling, abs=0.03)
    assert means["dice_WT_regression"] != floor
    share = result.recovered_shares["dice_WT"]
    assert share.mean == pytest.approx((synthetic - floor) / (ceiling - floor))
    assert share.low is not None
    assert share.high is not None
    assert share.low <= share.mean <= share.high
    assert result.segmenter == trained.hash
    lines = text_of(result).splitlines()
    assert f"recovered share, dice_WT: {share.mean:.0%} ({share.low:.0%} to {share.high:.0%}), n = 3" in lines
    (row,) = (line for line in lines if line.startswith("ceiling: four real scans"))
    assert row.split()[4] == f"{ceiling:.3f}"
    four = [line for line in lines if line.startswith(("ceiling:", "synthetic:", "regression:", "floor:"))]
    assert len({len(line) for line in four}) == 1  # no label is longer than its column
    page = write_page(tmp_path, result, subject_ids=result.subject_ids).read_text()
    assert all(cell in page for cell in row.split()[4:])


def test_who_trained_the_network_is_not_segmented(trained: Segmenter, tmp_path: Path) -> None:
    result = evaluated(tmp_path, trained, numbers=(1, 11))
    assert result.means["dice_WT_ceiling"].subjects == 1
    told = "not segmented: the subject trained the segmentation network"
    assert result.notes == [f"BraTS-GLI-00001 000: {told}"]
    both = evaluated(tmp_path, trained, numbers=(1, 2))
    assert both.notes == [f"BraTS-GLI-00001 000, BraTS-GLI-00002 000: {told}"]


def test_a_later_visit_of_who_trained_the_network_is_not_segmented(trained: Segmenter, tmp_path: Path) -> None:
    """Also where the visit that trained it has no synthetic volume."""
    name = write_subject(tmp_path / "data", 1)
    for path in sorted((tmp_path / "data" / name).iterdir()):
        later = read(path) if "seg" in path.name else read(path) + 3 * (read(path) > 0).astype(np.int16)
        save(tmp_path / "data" / path.name.replace("-000-", "-001-"), later)
    later_name = f"{name[:-3]}001"
    synthetic = read(tmp_path / "data" / f"{later_name}-t2f.nii.gz")
    save(tmp_path / "made" / f"{later_name}-t2f.nii.gz", synthetic.astype(np.float32) + 1)
    pairs, _ = find_pairs(tmp_path / "data", tmp_path / "made", layout="brats")
    result = evaluate(pairs, notes=[], segmenter=trained)
    assert result.notes == ["BraTS-GLI-00001 001: not segmented: the subject trained the segmentation network"]


def test_another_compression_of_a_scan_that_trained_the_network_is_known(trained: Segmenter, tmp_path: Path) -> None:
    name = write_subject(tmp_path / "data", 1)
    for path in (tmp_path / "data" / name).iterdir():
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    save(tmp_path / "made" / f"{name}-t2f.nii.gz", read(tmp_path / "data" / name / f"{name}-t2f.nii.gz") + 1)
    result = evaluate(find_pairs(tmp_path / "data", tmp_path / "made", layout="brats")[0], notes=[], segmenter=trained)
    told = "not segmented: the subject trained the segmentation network, from another file"
    assert f"{name[:-4]} 000: {told}" in result.notes


def test_a_doubt_of_many_volumes_names_the_first(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        name = write_subject(tmp_path / "data", number)
        real = read(tmp_path / "data" / name / f"{name}-t2f.nii.gz")
        save(tmp_path / "made" / f"{name}-t2f.nii.gz", (real / real.max()).astype(np.float32))
    (note,) = evaluate(find_pairs(tmp_path / "data", tmp_path / "made", layout="brats")[0], notes=[]).notes
    first = ", ".join(f"BraTS-GLI-0000{number} 000" for number in (1, 2, 3))
    assert note.startswith(f"{first} and 1 more: its values, from 0 to 1, were taken")


def test_a_visit_without_all_scans_is_not_segmented_and_an_unusable_one_refused(
    trained: Segmenter, tmp_path: Path
) -> None:
    pair: Pair = evaluated(tmp_path, trained, numbers=(11,)).scored[0].pair
    save(pair.others["t2w"], read(pair.others["t2w"]), AFFINE * 1.1)
    with pytest.raises(DataError, match=r"t2w.nii.gz lies on another grid than .*t2f.nii.gz"):
        evaluate([pair], notes=[], segmenter=trained)
    flat = np.full(read(pair.real).shape, 3, np.int16)
    flat[0, 0, 0] = 4
    save(pair.others["t2w"], flat)
    with pytest.raises(DataError, match=r"t2w\.nii\.gz: nearly all voxels are 3"):
        evaluate([pair], notes=[], segmenter=trained)
    pair.others["t2w"].unlink()
    pairs, _ = find_pairs(tmp_path / "data", tmp_path / "made", layout="brats")
    result = evaluate(pairs, notes=[], segmenter=trained)
    assert result.notes == ["BraTS-GLI-00011 000: not segmented: it has no t2w"]
    assert result.recovered_shares == {}
