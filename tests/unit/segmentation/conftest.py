"""One segmentation network of toy size for all tests of the folder."""

from pathlib import Path

import pytest

from agi_core.segmentation.segmenter import Segmenter, SegmenterSettings
from agi_core.segmentation.training import train_segmenter
from tests.support.brats_tree import write_subject


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects to train on, a third without a segmentation, and a fourth without t1c."""
    root = tmp_path_factory.mktemp("train")
    for number in (1, 2):
        write_subject(root, number)
    write_subject(root, 3, seg=False)
    write_subject(root, 4, modalities=("t1n", "t2w", "t2f"))
    return root


@pytest.fixture(scope="session")
def losses() -> list[float]:
    """Of each step of `trained`."""
    return []


@pytest.fixture(scope="session")
def trained(tree: Path, losses: list[float]) -> Segmenter:
    settings = SegmenterSettings(channels=(8, 16), patch=(16, 16, 16), steps=40, learning_rate=2e-2)
    segmenter, visits = train_segmenter(tree, settings, on_step=lambda done, total, loss: losses.append(loss))
    assert visits == ["BraTS-GLI-00001 000", "BraTS-GLI-00002 000"]
    return segmenter
