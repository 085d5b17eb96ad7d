"""Scans are known by the content of their files, whatever their names, sizes and times are."""

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agi_core.data.fingerprint import fingerprint, fingerprints, part_of
from agi_core.data.scans import Session, Subject
from agi_core.errors import DataError


def noise(path: Path, *, seed: int, shape: tuple[int, int, int] = (64, 64, 40), voxel: int = 0) -> Path:
    data = np.random.default_rng(seed).integers(0, 30000, shape, dtype=np.int16)
    data.ravel()[300] += voxel
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    os.utime(path, (1, 1))
    return path


def test_a_copy_has_the_same_fingerprint(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.nii", seed=1)
    shutil.copyfile(path, tmp_path / "b.nii")
    assert fingerprint(path) == fingerprint(tmp_path / "b.nii")


def test_equal_sizes_and_times_do_not_make_scans_equal(tmp_path: Path) -> None:
    one, other = noise(tmp_path / "a.nii", seed=1), noise(tmp_path / "b.nii", seed=2)
    assert (one.stat().st_size, one.stat().st_mtime) == (other.stat().st_size, other.stat().st_mtime)
    assert fingerprint(one) != fingerprint(other)


def test_one_voxel_changes_that_of_a_compressed_file(tmp_path: Path) -> None:
    one, other = noise(tmp_path / "a.nii.gz", seed=1), noise(tmp_path / "b.nii.gz", seed=1, voxel=1)
    assert one.stat().st_size > 64 * 4096  # more than is sampled
    assert fingerprint(one) != fingerprint(other)


@given(size=st.sampled_from([0, 1, 352, 4096, 4097, 64 * 4096, 64 * 4096 + 1, 10**6]), at=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_small_file_is_read_whole_and_of_a_large_one_both_ends(
    tmp_path_factory: pytest.TempPathFactory, size: int, at: float
) -> None:
    path, changed = (tmp_path_factory.getbasetemp() / name for name in ("whole.nii", "changed.nii"))
    content = bytearray(np.random.default_rng(0).bytes(size))
    path.write_bytes(content)
    if not content:
        assert fingerprint(path) == fingerprint(path)
        return
    offset = int(at * (size - 1))
    if size > 64 * 4096 and 4096 <= offset < size - 4096:
        offset = size - 1 - offset % 4096
    content[offset] ^= 1
    changed.write_bytes(content)
    assert fingerprint(path) != fingerprint(changed)


def subject(name: str, **paths: Path) -> Subject:
    return Subject(name, "HH", (Session("", paths),))


def test_each_subject_has_one_of_all_its_scans(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{number}.nii", seed=number, shape=(8, 8, 8)) for number in range(4)]
    first, second = subject("1", T1=paths[0], T2=paths[1]), subject("2", T1=paths[2], T2=paths[3])
    before = fingerprints([first, second])
    assert fingerprints([second, first]) == before
    noise(paths[3], seed=9, shape=(8, 8, 8))
    after = fingerprints([first, second])
    assert (after["1"] == before["1"], after["2"] == before["2"]) == (True, False)


def test_one_more_visit_makes_nobody_another_person() -> None:
    parts = {"a": "train", "b": "test", "c": "validation"}
    assert [part_of(scans, parts) for scans in (["a", "new"], ["b"], ["c", "b"], ["new"], [])] == [
        *("train", "test", "validation"),
        *(None, None),
    ]


def test_visits_may_share_a_scan(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.nii", seed=1, shape=(8, 8, 8))
    fingerprints([Subject("1", "HH", (Session("ses-1", {"T1": path}), Session("ses-2", {"T1": path})))])


def test_one_scan_of_two_subjects_or_modalities_is_refused(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{number}.nii", seed=number, shape=(8, 8, 8)) for number in range(4)]
    copy = tmp_path / "copy.nii"
    shutil.copyfile(paths[0], copy)
    with pytest.raises(DataError, match=r"0\.nii and .*copy\.nii hold the same image .*data\.exclude=\[2\]"):
        fingerprints([subject("1", T1=paths[0], T2=paths[1]), subject("2", T1=copy, T2=paths[2])])
    with pytest.raises(DataError, match=r"each modality has its own scan.*data\.exclude=\[1\]"):
        fingerprints([subject("1", T1=paths[0], T2=copy), subject("2", T1=paths[1], T2=paths[2])])
    same = {"T1": paths[0], "T2": paths[1]}
    with pytest.raises(DataError, match=r"2 such images.*data\.exclude=\[2\]"):  # of the person, not of each scan
        fingerprints([subject("1", **same), subject("2", **same), subject("3", T1=paths[2], T2=paths[3])])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.nii cannot be read \(No such file"):
        fingerprint(tmp_path / "gone.nii")
