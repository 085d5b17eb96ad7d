"""Files are there completely or not at all."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from agi_core.errors import ConfigError, RunError
from agi_core.host import atomic


def test_writes_and_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    atomic.write_json(path, {"psnr_db": 31.5, "site": "Zürich"})
    assert json.loads(path.read_text()) == {"psnr_db": 31.5, "site": "Zürich"}
    atomic.write_text(path, "second")
    atomic.write_bytes(path.with_name("b"), b"\x00\xff")
    assert path.read_text() == "second"
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.json", "b"]


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"most": 3}, {"d", "written", "c"}),
        ({"most": 1}, {"written"}),
        ({"most": 9, "most_bytes": 14}, {"written", "d"}),  # of 10, 4, 3, 2 and 1 bytes
        ({"most": 9, "most_bytes": 5}, {"written"}),
    ],
)
def test_the_newest_files_stay_and_first_of_all_the_one_just_written(
    tmp_path: Path, limits: dict[str, int], left: set[str]
) -> None:
    for age, name in enumerate(["written", "a", "b", "c", "d"]):  # the clock was set back: "written" is the oldest
        path = tmp_path / f"{name}.bin"
        path.write_bytes(b"x" * (age or 10))
        os.utime(path, ns=(age, age))
    (tmp_path / "other.json").touch()
    atomic.keep_newest(tmp_path / "written.bin", **limits)
    assert {path.stem for path in tmp_path.glob("*.bin")} == left
    assert (tmp_path / "other.json").exists()


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "a.json", float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_text("old")

    def write_half() -> None:
        with atomic.replacing(path) as temporary_path:
            assert temporary_path.parent == tmp_path
            assert temporary_path.suffix == path.suffix
            temporary_path.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_there_with_all_of_its_files_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out"

    def write(*, fail: bool) -> None:
        with atomic.new_folder(path) as temporary_dir:
            assert not path.exists()
            (temporary_dir / "a").touch()
            if fail:
                raise KeyError

    with pytest.raises(KeyError):
        write(fail=True)
    assert list(path.parent.iterdir()) == []
    write(fail=False)
    assert [p.name for p in path.parent.rglob("*")] == ["out", "a"]
    with pytest.raises(ConfigError, match="out is there already and not an empty folder"):
        write(fail=False)


def test_the_working_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"\. cannot be replaced by a new folder; give --out a name in it"):
        atomic.new_folder(Path(".")).__enter__()


def test_a_file_that_could_not_be_written_is_found_without_writing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "there.zip").touch()
    (tmp_path / "folder.zip").mkdir()
    atomic.check_file(tmp_path / "new" / "folder" / "x.zip", suffix=".zip")
    for name, cause in (
        ("x.nii.gz", r"let --out end in \.zip"),
        ("there.zip", "is there already; choose another --out, or remove it"),
        ("folder.zip", "is a folder; give --out the name of a file"),
        ("file/x.zip", "file is no folder that you may write to"),
        ("file/new/x.zip", "file is no folder that you may write to"),
    ):
        with pytest.raises(ConfigError, match=cause):
            atomic.check_file(tmp_path / name, suffix=".zip")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.zip", "there.zip"}


def test_a_new_folder_is_not_blamed_for_another_file(tmp_path: Path) -> None:
    def write(name: str) -> None:
        with atomic.new_folder(tmp_path / "out") as temporary_dir:
            (temporary_dir / name).read_bytes()

    with pytest.raises(FileNotFoundError, match=r"scan\.nii"):
        write(str(tmp_path / "scan.nii"))
    with pytest.raises(RunError, match="out could not be written"):
        write("scan.nii")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file/out could not be written"), atomic.new_folder(tmp_path / "file" / "out"):
        pass
    assert not (tmp_path / "out").exists()


def test_append_line(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    atomic.append_line(path, '{"round": 1}')
    atomic.append_line(path, '{"round": 2}')
    assert path.read_text() == '{"round": 1}\n{"round": 2}\n'


def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    # A file size limit stops the write half-way, as a full disk does; it holds for a whole process, so it gets its own.
    script = """
        import resource, signal, sys
        from pathlib import Path
        from agi_core.host import atomic
        from agi_core.errors import ConfigError, RunError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        folder = Path(sys.argv[1])
        for write, name in ((atomic.append_line, "events"), (atomic.write_text, "a")):
            try:
                write(folder / name, "x" * 100)
            except RunError as error:
                print(error)
    """
    (tmp_path / "events").write_text("first\n")
    (tmp_path / "a").write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("could not be written") == 2
    assert (tmp_path / "events").read_text() == "first\n"
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "events"]


def test_no_space_says_that_the_disk_is_full() -> None:
    with pytest.raises(RunError, match=r"disk is full.*/dev/full"):
        atomic.append_line(Path("/dev/full"), "x")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/a could not be written \(File exists\)"):
        atomic.write_text(tmp_path / "file" / "a", "x")


def test_remove_stale_takes_only_old_temporary_files_and_folders(tmp_path: Path) -> None:
    """A folder is as old as the newest file below it; another program's are left alone."""
    names = (".tmp-1-0123456f-a", ".tmp-2-0123456f-b", "entry", ".tmp-x")
    old, young, kept, others = (tmp_path / name for name in names)
    abandoned, at_work = (tmp_path / f".tmp-{pid}-89abcdef-out" / "volumes" for pid in (3, 4))
    for folder in (abandoned, at_work):
        folder.mkdir(parents=True)
    files = (old, young, kept, others, abandoned / "t1.nii.gz", at_work / "t1.nii.gz")
    for path in files:
        path.write_text("")
    for path in (old, kept, others, *abandoned.parent.rglob("*"), abandoned.parent, at_work, at_work.parent):
        os.utime(path, (time.time() - 7 * 3600,) * 2)
    atomic.remove_stale(tmp_path)
    assert {*tmp_path.iterdir()} == {young, kept, others, at_work.parent}
    assert (at_work / "t1.nii.gz").exists()
    atomic.remove_stale(tmp_path / "absent")


def test_text_that_is_not_utf_8_is_written_in_escapes(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a.json", {"dir": "K\u00f8ge\udcff"})
    assert "K\u00f8ge\\udcff" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"dir": "K\u00f8ge\udcff"}
