"""Which image each scan holds: read once, and the same whatever the file is called and however it is compressed."""

import gzip
from pathlib import Path

import pytest

from agi_core.data.scans import Scans, Subject, discover
from agi_core.errors import DataError
from agi_core.run import progress
from client.site import images
from client.site.images import NAME, images_of
from tests.support.small_data import write_ixi


def subjects_in(data_dir: Path) -> tuple[Subject, ...]:
    return discover(Scans(data_dir, "ixi"), ("T1", "PD")).subjects


def compress_anew(path: Path, to: Path) -> None:
    to.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), mtime=1))
    assert to.read_bytes() != path.read_bytes()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return write_ixi(tmp_path / "ixi", {"HH": 2})


def test_a_scan_is_read_once(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[progress.News] = []
    with progress.listening(steps.append):
        first = images_of(tmp_path, subjects_in(data_dir), site="HH")
    assert [(step.step, step.steps) for step in steps if isinstance(step, progress.Step)] == [(1, 2), (2, 2)]
    assert {subject_id: len({*its}) for subject_id, its in first.items()} == {"IXI100": 2, "IXI101": 2}
    (tmp_path / NAME).write_text(f"{(tmp_path / NAME).read_text()}cut sho")  # by a crash
    monkeypatch.setattr(images, "read_volume", None)
    assert images_of(tmp_path, subjects_in(data_dir), site="HH") == first


def test_another_name_and_another_compression_are_the_same_image(tmp_path: Path, data_dir: Path) -> None:
    first = images_of(tmp_path, subjects_in(data_dir), site="HH")
    for path in [*data_dir.glob("*/IXI100-*")]:
        compress_anew(path, path.with_name(path.name.replace("IXI100", "IXI900")))
        path.unlink()
    assert images_of(tmp_path, subjects_in(data_dir), site="HH")["IXI900"] == first["IXI100"]


def test_one_image_of_two_subjects_and_a_broken_scan_are_refused(tmp_path: Path, data_dir: Path) -> None:
    scan = data_dir / "IXI-T1" / "IXI101-HH-1101-T1.nii.gz"
    compress_anew(data_dir / "IXI-T1" / "IXI100-HH-1100-T1.nii.gz", scan)
    with pytest.raises(DataError, match=r"hold the same image.*data\.exclude=\[IXI101\]"):
        images_of(tmp_path, subjects_in(data_dir), site="HH")
    scan.write_bytes(scan.read_bytes()[:500])
    with pytest.raises(DataError, match=r"truncated.*data\.exclude=\[IXI101\]"):
        images_of(tmp_path, subjects_in(data_dir), site="HH")
