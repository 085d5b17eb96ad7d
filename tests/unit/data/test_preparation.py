"""The cache holds what `prepare_session` gives, notices changes, and survives crashes and races."""

import gzip
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from safetensors.numpy import load_file

from agi_core.data import preprocess
from agi_core.data.cached_session import CachedSession
from agi_core.data.nifti import write_scan
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Session, Subject
from agi_core.data.slabs import source_box
from agi_core.errors import DataError, RunError
from agi_core.scenario import Scenario

SCENARIO = Scenario(("T1", "T2"), "PD")
AFFINE = np.diag([1.5, 1.75, 5.0, 1.0])


def make_subjects(data_dir: Path, count: int = 2) -> list[Subject]:
    """Subjects with an ellipsoid head of 12 x 16 x 6 voxels in a volume of 20 x 24 x 8."""
    data_dir.mkdir(exist_ok=True)
    index = np.indices((20, 24, 8)) - np.array([9.5, 11.5, 3.5])[:, None, None, None]
    head = ((index / np.array([6, 8, 3])[:, None, None, None]) ** 2).sum(axis=0) <= 1
    subjects = []
    for number in range(count):
        rng = np.random.default_rng(number)
        paths = {}
        for modality in SCENARIO.modalities:
            paths[modality] = data_dir / f"IXI{number:03d}-HH-{modality}.nii.gz"
            data = np.where(head, rng.uniform(500, 1200, head.shape).clip(None, 1000), rng.choice((1, 10), head.shape))
            write_scan(paths[modality], data.astype(np.int16), affine=AFFINE, descrip="")
        subjects.append(Subject(f"IXI{number:03d}", "HH", (Session("", paths),)))
    return subjects


def build(
    subjects: list[Subject],
    tmp_path: Path,
    on_session: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[CachedSession]:
    settings: dict[str, Any] = {
        "scenario": SCENARIO,
        "spacing_mm": None,
        "register_to": None,
        "whole": True,
        "cache_dir": tmp_path / "cache",
    }
    return Preparation(**(settings | options)).open(subjects, on_session=on_session)


def test_whole_entries_hold_the_prepared_volumes(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "data")
    entries = build(subjects, tmp_path)
    assert [entry.subject_id for entry in entries] == ["IXI000", "IXI001"]
    for subject, entry in zip(subjects, entries, strict=True):
        prepared = preprocess.prepare_session(
            subject.sessions[0], scenario=SCENARIO, spacing_mm=None, subject_id=subject.id
        )
        assert entry.shape == prepared.volumes.shape == (8, 3, 24, 20)
        assert entry.source_box == source_box(prepared.volumes[:, :-1].astype(np.float16))
        np.testing.assert_array_equal(entry.grid.affine, prepared.grid.affine)
        assert entry.spacing_mm == pytest.approx((1.5, 1.75, 5))
        for k in range(8):
            volumes, foreground = entry.read_slice(k)
            assert volumes.dtype == np.float16
            np.testing.assert_array_equal(volumes, prepared.volumes[k].astype(np.float16))
            np.testing.assert_array_equal(foreground, prepared.foreground[k])
            np.testing.assert_array_equal(entry.read_foreground(k), prepared.foreground[k])
        block = entry.read_block(slice(2, 5), slice(1, 24), slice(7, 9))
        assert block.dtype == np.float16
        np.testing.assert_array_equal(block, prepared.volumes[2:5, :, 1:24, 7:9].astype(np.float16))
    entries[0].path.unlink()
    with pytest.raises(DataError, match=r"cannot be read.*Start again"):
        entries[0].read_slice(0)
    with pytest.raises(DataError, match=r"cannot be read.*Start again"):
        entries[0].read_block(slice(1), slice(1), slice(1))


def test_any_number_of_threads_makes_the_same_entries_in_the_same_order(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "data", 5)
    told: list[tuple[int, int]] = []
    alone = build(subjects, tmp_path, cache_dir=tmp_path / "alone")
    together = build(subjects, tmp_path, lambda *done: told.append(done), cache_dir=tmp_path / "together", threads=3)
    assert [entry.subject_id for entry in together] == [subject.id for subject in subjects]
    assert [entry.path.read_bytes() for entry in together] == [entry.path.read_bytes() for entry in alone]
    assert told == [(done, 5) for done in range(1, 6)]


def test_of_several_failures_the_first_in_order_is_told_and_no_thread_is_left(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "data", 4)
    cut, empty = (subjects[number].sessions[0].paths["T1"] for number in (1, 2))
    cut.write_bytes(cut.read_bytes()[:-20])
    empty.write_bytes(b"")  # fails sooner
    with pytest.raises(DataError, match=r"IXI001.*data.exclude=\[IXI001\]"):
        build(subjects, tmp_path, threads=4)
    assert not preparing()


def test_ctrl_c_ends_the_threads(tmp_path: Path) -> None:
    def on_session(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(make_subjects(tmp_path / "data", 6), tmp_path, on_session, threads=2)
    assert not preparing()


def preparing() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("preparation")]


def test_doubts_about_voxels_stay_with_the_entry(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "data", 1)
    paths = subjects[0].sessions[0].paths
    data = np.asarray(nib.load(paths["T2"]).dataobj).copy()
    data[0, 0, 0] = 32767
    write_scan(paths["T2"], data, affine=AFFINE, descrip="")
    (made,), (found,) = build(subjects, tmp_path), build(subjects, tmp_path)
    assert made.doubts == found.doubts
    assert [doubt.found[:31] for modality, doubt in found.doubts if modality == "T2"][:1] == [
        "1 of 3840 voxels, such as 32767"
    ]


def test_training_entries_are_cropped_to_the_head(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "data", 1)
    (whole,), (cropped,) = build(subjects, tmp_path), build(subjects, tmp_path, whole=False)
    assert cropped.shape == (6, 3, 16, 12)
    assert cropped.grid.shape == whole.grid.shape == (20, 24, 8)
    for k in range(6):
        for ours, theirs in zip(cropped.read_slice(k), whole.read_slice(k + 1), strict=True):
            np.testing.assert_array_equal(ours, theirs[..., 4:20, 4:16])
        assert cropped.foreground_fraction[k] == pytest.approx(cropped.read_slice(k)[1].mean())
    np.testing.assert_array_equal(whole.foreground_fraction[1:7], cropped.foreground_fraction)
    np.testing.assert_array_equal(whole.foreground_fraction[[0, 7]], 0)


def test_files_are_safetensors_with_the_documented_names(tmp_path: Path) -> None:
    (entry,) = build(make_subjects(tmp_path / "data", 1), tmp_path)
    tensors = load_file(entry.path)
    assert {name: (tensor.dtype.name, tensor.shape) for name, tensor in tensors.items()} == {
        "volumes": ("float16", (8, 3, 24, 20)),
        "foreground": ("bool", (8, 24, 20)),
    }


def test_a_second_build_makes_no_entry_anew(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "data")
    seen: list[tuple[int, int]] = []
    first = build(subjects, tmp_path, on_session=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    files = [(entry.path, entry.path.stat().st_ino) for entry in first]  # a file that is written anew is another one
    assert [(entry.path, entry.path.stat().st_ino) for entry in build(subjects, tmp_path)] == files


def test_two_trees_with_equal_names_sizes_and_times_share_nothing(tmp_path: Path) -> None:
    trees = []
    for number, folder in enumerate(("data", "other")):
        paths = {}
        for modality, path in make_subjects(tmp_path / folder)[number].sessions[0].paths.items():
            paths[modality] = path.with_name(f"{modality}.nii")  # uncompressed, so of one size
            paths[modality].write_bytes(gzip.decompress(path.read_bytes()))
            os.utime(paths[modality], (1, 1))
        trees.append(Subject("IXI000", "HH", (Session("", paths),)))
    stamps = [[(p.name, p.stat().st_size, p.stat().st_mtime) for p in t.sessions[0].paths.values()] for t in trees]
    assert stamps[0] == stamps[1]
    (one,), (other,) = (build([tree], tmp_path) for tree in trees)
    assert one.path != other.path
    assert (one.read_slice(3)[0] != other.read_slice(3)[0]).any()


def test_whatever_changes_the_result_changes_the_entry(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "data", 1)
    (path,) = (entry.path for entry in build(subjects, tmp_path))
    variants = [
        build(subjects, tmp_path, spacing_mm=(2.5, 3.0, 5.0)),
        build(subjects, tmp_path, scenario=Scenario(("T2", "T1"), "PD")),
        build(subjects, tmp_path, scenario=Scenario(("T1", "PD"), "T2")),
        build(subjects, tmp_path, whole=False),
    ]
    os.utime(subjects[0].sessions[0].paths["T1"], (1, 1))
    variants.append(build(subjects, tmp_path))
    assert len({path, *(entries[0].path for entries in variants)}) == 6


def test_a_moved_data_folder_keeps_its_cache(tmp_path: Path) -> None:
    (entry,) = build(make_subjects(tmp_path / "data", 1), tmp_path)
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    paths = {modality: tmp_path / "moved" / f"IXI000-HH-{modality}.nii.gz" for modality in SCENARIO.modalities}
    moved = Subject("IXI000", "HH", (Session("", paths),))
    assert build([moved], tmp_path)[0].path == entry.path


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_broken_entry_is_built_again(tmp_path: Path, keep: int) -> None:
    subjects = make_subjects(tmp_path / "data", 1)
    (entry,) = build(subjects, tmp_path)
    content = entry.path.read_bytes()
    entry.path.write_bytes(content[:keep])
    build(subjects, tmp_path)
    assert entry.path.read_bytes() == content


def test_the_disk_is_checked_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subjects = make_subjects(tmp_path / "data")
    predicted_bytes = 2 * (20 * 24 * 8 * (3 * 2 + 1) + 2**16)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=predicted_bytes - 1))
    with pytest.raises(DataError, match=r"needs 0\.0 GB.*free at .*cache.*data\.cache_dir"):
        build(subjects, tmp_path)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=predicted_bytes))
    entries = build(subjects, tmp_path)
    assert sum(entry.path.stat().st_size for entry in entries) <= predicted_bytes


def test_a_bad_subject_is_named_and_leaves_no_entry(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "data")
    subjects[1].sessions[0].paths["T2"].write_bytes(b"broken")
    with pytest.raises(DataError, match="IXI001-HH-T2"):
        build(subjects, tmp_path)
    assert len(list((tmp_path / "cache" / "whole").iterdir())) == 1


def test_a_missing_scan_is_named(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "data", 1)
    subjects[0].sessions[0].paths["T2"].unlink()
    with pytest.raises(DataError, match=r"IXI000-HH-T2\.nii\.gz is missing"):
        build(subjects, tmp_path)


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RunError, match="could not be written"):
        build(make_subjects(tmp_path / "data", 1), tmp_path)


def test_two_processes_may_build_one_cache(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "data", 4)
    builders = [multiprocessing.get_context("spawn").Process(target=build, args=(subjects, tmp_path)) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(timeout=60)
    assert [builder.exitcode for builder in builders] == [0, 0]
    entries = build(subjects, tmp_path)
    assert sorted((tmp_path / "cache" / "whole").iterdir()) == sorted(entry.path for entry in entries)


def test_a_killed_build_is_completed_by_the_next(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "data", 12)
    builder = multiprocessing.get_context("spawn").Process(target=build, args=(subjects, tmp_path))
    builder.start()
    entries_dir = tmp_path / "cache" / "whole"
    deadline = time.monotonic() + 60
    while not list(entries_dir.glob("*.safetensors")) and time.monotonic() < deadline:
        os.sched_yield()
    builder.kill()
    builder.join(timeout=60)
    abandoned = entries_dir / ".tmp-1-0123456f-entry.safetensors"
    abandoned.write_bytes(b"half")
    os.utime(abandoned, (1, 1))
    entries = build(subjects, tmp_path)
    assert not abandoned.exists()
    reference = build(subjects, tmp_path, cache_dir=tmp_path / "other")
    assert [entry.path.read_bytes() for entry in entries] == [entry.path.read_bytes() for entry in reference]


def test_slices_hold_no_file_open(tmp_path: Path) -> None:
    entries = build(make_subjects(tmp_path / "data"), tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    slices = [entry.read_slice(k) for entry in entries for k in range(8)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(slices) == 16
