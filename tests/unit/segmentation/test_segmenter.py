"""The segmentation network at toy size: it learns, it is the same again from its file, and others are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from agi_core.data.intensity import scale_intensity
from agi_core.errors import DataError, RunError
from agi_core.host.tensor_file import tensors_in
from agi_core.segmentation.lesions import dice_of
from agi_core.segmentation.segmenter import Segmenter, SegmenterSettings, read_segmenter
from agi_core.segmentation.training import train_segmenter
from agi_core.segmentation.visits import MODALITIES
from tests.support.brats_tree import AFFINE, labels_of, read, save, write_subject
from tests.support.head_scans import Array
from tests.support.toy_segmenter import train_toy


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects to train on, a third without a segmentation, and a fourth without t1c."""
    root = tmp_path_factory.mktemp("train")
    write_subject(root, 1)
    write_subject(root, 2)
    write_subject(root, 3, seg=False)
    write_subject(root, 4, modalities=("t1n", "t2w", "t2f"))
    return root


@pytest.fixture(scope="module")
def losses() -> list[float]:
    """Of each step of `trained`."""
    return []


@pytest.fixture(scope="module")
def trained(tree: Path, losses: list[float]) -> Segmenter:
    return train_toy(tree, lambda done, total, loss: losses.append(loss))


def scans(root: Path, number: int) -> dict[str, Array]:
    name = write_subject(root, number)
    paths = {modality: root / name / f"{name}-{modality}.nii.gz" for modality in MODALITIES}
    return {modality: scale_intensity(read(path).astype(np.float32))[0] for modality, path in paths.items()}


def test_it_learns(trained: Segmenter, losses: list[float], tmp_path: Path) -> None:
    """On a subject that it has never seen."""
    assert len(losses) == trained.settings.steps
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    masks = trained.segment(scans(tmp_path, 7))
    assert [*masks] == ["WT", "TC", "ET"]
    assert dice_of(masks["WT"], labels_of(7) > 0) > 0.6


def test_a_scan_that_cannot_be_scaled_is_named(tmp_path: Path) -> None:
    path = tmp_path / (name := write_subject(tmp_path, 1)) / f"{name}-t2w.nii.gz"
    flat = np.full(read(path).shape, 3, np.int16)
    flat[0, 0, 0] = 4
    save(path, flat)
    with pytest.raises(DataError, match=rf"^{path}: nearly all voxels are 3"):
        train_segmenter(tmp_path, SegmenterSettings(channels=(8, 16), patch=(16, 16, 16), steps=1))


def test_a_regression_is_that_of_the_training_subjects(trained: Segmenter, tmp_path: Path) -> None:
    volumes = scans(tmp_path, 8)
    made = trained.regressed("t2f", volumes)
    head = np.any([volumes[modality] > 0 for modality in ("t1n", "t1c", "t2w")], axis=0)
    assert made.shape == volumes["t2f"].shape
    error, spread = np.abs(made - volumes["t2f"])[head].mean(), volumes["t2f"][head].std()
    assert error < 0.5 * spread
    assert not made[~head].any()


def test_the_same_seed_gives_the_same_network_and_so_does_its_file(
    tree: Path, trained: Segmenter, tmp_path: Path
) -> None:
    few = SegmenterSettings(channels=(8, 16), patch=(16, 16, 16), steps=2)
    (one, visits, notes), (other, *_) = (train_segmenter(tree, few) for _ in range(2))
    assert notes == ["left out 1 visit: no seg", "left out 1 visit: no t1c"]
    assert visits == ["BraTS-GLI-00001 000", "BraTS-GLI-00002 000"]
    assert one.hash == other.hash != trained.hash
    trained.write(tmp_path / "net.safetensors")
    again = read_segmenter(tmp_path / "net.safetensors")
    assert again.hash == trained.hash
    assert again.settings == trained.settings
    volumes = scans(tmp_path, 9)
    for target, mask in trained.segment(volumes).items():
        np.testing.assert_array_equal(again.segment(volumes)[target], mask)
    np.testing.assert_array_equal(again.regressed("t1c", volumes), trained.regressed("t1c", volumes))


def test_a_patch_may_be_larger_than_the_head(tree: Path, tmp_path: Path) -> None:
    large = SegmenterSettings(channels=(4, 8), patch=(32, 32, 32), steps=1, batch_size=1)
    segmenter, *_ = train_segmenter(tree, large)
    assert segmenter.segment(scans(tmp_path, 1))["WT"].shape == labels_of(1).shape


def test_what_cannot_be_used_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="none is no segmentation network of this release"):
        read_segmenter(tmp_path / "none")
    with pytest.raises(RunError, match="is no segmentation network"):
        read_segmenter(next(tree.rglob("*.nii.gz")))
    few = SegmenterSettings(patch=(16, 16, 16), steps=1)
    write_subject(tmp_path / "some", 1, seg=False)
    with pytest.raises(DataError, match=r"no visit in .*some has t1n, t1c, t2w, t2f and seg"):
        train_segmenter(tmp_path / "some", few)
    name = write_subject(tmp_path / "healthy", 1)
    save(tmp_path / "healthy" / name / f"{name}-seg.nii.gz", 0 * labels_of(1))
    with pytest.raises(DataError, match=r"no segmentation in .*healthy holds a tumour: there is nothing to learn"):
        train_segmenter(tmp_path / "healthy", few)
    name = write_subject(tmp_path / "moved", 1)
    path = tmp_path / "moved" / name / f"{name}-t2w.nii.gz"
    save(path, read(path), AFFINE * 1.1)
    with pytest.raises(DataError, match=r"t2w.nii.gz lies on another grid than .*t1n.nii.gz"):
        train_segmenter(tmp_path / "moved", few)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("patch", (0, 16, 16)),
        ("patch", (16, 16)),
        ("patch", (15, 16, 16)),
        ("patch", "abc"),
        ("channels", (100_000, 100_000)),
        ("trained_on", None),
        ("trained_on", [5]),
        ("regression", np.zeros((2, 2))),
        ("regression", np.full(20, np.nan)),
        ("network", np.nan),
    ],
)
def test_a_file_from_elsewhere_is_looked_at(trained: Segmenter, tmp_path: Path, change: str, value: object) -> None:
    trained.write(tmp_path / "net.safetensors")
    metadata, arrays = tensors_in((tmp_path / "net.safetensors").read_bytes())
    note = json.loads(metadata["segmenter"])
    if change in note["settings"]:
        note["settings"][change] = value
    elif change == "regression":
        arrays["regression t2f"] = value
    elif change == "network":
        name = next(name for name in arrays if name.startswith("network"))
        arrays[name] = np.full_like(arrays[name], value)
    else:
        note[change] = value
    save_file(arrays, tmp_path / "bad.safetensors", metadata={"segmenter": json.dumps(note)})
    with pytest.raises(RunError, match=r"bad\.safetensors is no segmentation network of this release"):
        read_segmenter(tmp_path / "bad.safetensors")
