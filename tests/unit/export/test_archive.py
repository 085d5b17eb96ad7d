"""A zip of a model is read whole and true, or refused in a sentence."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from agi_core.config.schema import RunConfig
from agi_core.errors import RunError
from agi_core.export import archive
from agi_core.export.archive import CHECKSUMS, DESCRIPTION, ROOT, WEIGHTS, read_archive, write_archive
from agi_core.export.description import Description

DESCRIBED = Description.of(RunConfig(scenario="T1,T2:PD", reference="T1"), release="1")
FILES = {DESCRIPTION: json.dumps(DESCRIBED.to_json()).encode(), WEIGHTS: save({"w": np.arange(3.0)})}


def rezipped(path: Path, change: Callable[[dict[str, bytes]], Mapping[str, bytes]]) -> None:
    """Write the zip again after a change to {full name: content}."""
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in change(content).items():
            new.writestr(name, data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_archive(tmp_path / "m.zip", FILES)
    return tmp_path / "m.zip"


def test_what_was_written_is_read(path: Path) -> None:
    described, weights, doubts = read_archive(path, release="1")
    assert not doubts
    assert described == DESCRIBED
    assert described.task.scenario == "T1,T2:PD"
    np.testing.assert_array_equal(weights["w"], np.arange(3.0))


def test_the_same_files_make_the_same_zip(tmp_path: Path) -> None:
    assert write_archive(tmp_path / "a.zip", FILES) == write_archive(tmp_path / "b.zip", FILES)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda files: files | {f"{ROOT}/{WEIGHTS}": save({"w": np.zeros(3)})}, f"the checksum of {WEIGHTS} is wrong"),
        (lambda files: files | {f"{ROOT}/more.txt": b""}, "the checksum of more.txt is wrong"),
        (lambda files: {n: d for n, d in files.items() if WEIGHTS not in n}, f"has no {WEIGHTS}"),
        (lambda files: files | {f"{ROOT}/../../etc/x": b""}, "a name outside of"),
        (lambda files: files | {"/etc/x": b""}, "a name outside of"),
        (lambda files: files | {f"{ROOT}\\..\\x": b""}, "a name outside of"),
        (lambda files: files | {f"{ROOT}/{i}": b"" for i in range(600)}, "more than any model"),
    ],
)
def test_a_zip_that_was_changed_is_refused(
    path: Path, change: Callable[[dict[str, bytes]], Mapping[str, bytes]], sentence: str
) -> None:
    rezipped(path, change)
    with pytest.raises(RunError) as refusal:
        read_archive(path, release="1")
    assert sentence in str(refusal.value)


def test_a_file_that_stands_in_it_twice_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as zipped, pytest.warns(UserWarning, match="Duplicate name"):
        zipped.writestr(f"{ROOT}/{WEIGHTS}", b"")
    with pytest.raises(RunError, match="twice"):
        read_archive(path, release="1")


def test_a_bomb_is_not_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 2**20)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(f"{ROOT}/zeros", bytes(2**21))
    assert path.stat().st_size < 2**14
    with pytest.raises(RunError, match="more than any model"):
        read_archive(path, release="1")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x1f\x8bsomething else"])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.zip").write_bytes(content)
    with pytest.raises(RunError, match="is no zip of a model, or is damaged"):
        read_archive(tmp_path / "m.zip", release="1")
    with pytest.raises(RunError, match="does not exist"):
        read_archive(tmp_path / "none.zip", release="1")


def test_a_zip_that_was_cut_short_or_has_a_flipped_bit_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:200] + bytes([content[200] ^ 1]) + content[201:]):
        path.write_bytes(damaged)
        with pytest.raises(RunError):
            read_archive(path, release="1")


def test_a_zip_of_another_release_is_refused_by_both_names(path: Path) -> None:
    with pytest.raises(RunError, match=r"is of release 1, and this is release 2\.0"):
        read_archive(path, release="2.0")


@pytest.mark.parametrize(
    "described",
    [
        [],
        DESCRIBED.to_json() | {"scenario": "T1"},
        DESCRIBED.to_json() | {"model": {"widths": [4, 8], "new": 1}},
        DESCRIBED.to_json() | {"model": {}},
        DESCRIBED.to_json() | {"crop": "all"},
        {"release": "1"},
    ],
)
def test_a_description_that_cannot_be_is_refused(tmp_path: Path, described: object) -> None:
    write_archive(tmp_path / "m.zip", FILES | {DESCRIPTION: json.dumps(described).encode()})
    with pytest.raises(RunError):
        read_archive(tmp_path / "m.zip", release="1")


def test_checksums_name_every_file(path: Path) -> None:
    with zipfile.ZipFile(path) as zipped:
        lines = zipped.read(f"{ROOT}/{CHECKSUMS}").decode().splitlines()
    assert [line.split("  ")[1] for line in lines] == sorted(FILES)
