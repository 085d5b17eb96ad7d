"""Broken input at the command line: one clear message with cause, place and next step; exit code 2; nothing
half-written."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from agi_core.__main__ import main as agi_core
from agi_core.run.event_log import events_of
from agi_core.run.events import SiteFailed
from simulations.run import main
from tests.support.small_data import AFFINE, SHAPE, SMALL, write_ixi
from tests.support.vocabulary_run import vocabulary_run


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals with 3 and 2 subjects, IXI100 to IXI104; not to be changed."""
    return write_ixi(tmp_path_factory.mktemp("tree") / "ixi", {"Guys": 3, "HH": 2})


@pytest.fixture
def data_dir(tree: Path, tmp_path: Path) -> Path:
    """A copy of `tree` for a test to break."""
    shutil.copytree(tree, tmp_path / "ixi")
    return tmp_path / "ixi"


@pytest.fixture(scope="module")
def finished(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on `tree`."""
    folder = tmp_path_factory.mktemp("finished")
    command = ["--clients", "2", "--data", str(tree), "--out", str(folder / "run"), *SMALL, "rounds=1"]
    assert main([*command, f"data.cache_dir={folder / 'cache'}"]) == 0
    return folder / "run"


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the simulation on a data folder; what it says when it refuses. Checks what every refusal has in common."""

    def run(data_dir: Path, *more: str, out_dir: Path | None = None) -> str:
        capsys.readouterr()
        run_dir = out_dir or tmp_path / "run"
        before = contents(run_dir)
        command = ["--clients", "2", "--data", str(data_dir), "--out", str(run_dir), *SMALL]
        assert main([*command, f"data.cache_dir={tmp_path / 'cache'}", *more]) == 2
        message = capsys.readouterr().err
        assert contents(run_dir) == before
        assert_one_message(message, tmp_path)
        return message

    return run


def assert_one_message(message: str, folder: Path) -> None:
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert "Traceback" not in message
    assert len(message) < 500
    assert not list(folder.rglob(".tmp-*"))


def contents(folder: Path) -> list[str]:
    if not folder.is_dir():
        return ["a file"] if folder.exists() else []
    return [str(path) for path in sorted(folder.rglob("*"))]


def scan(data_dir: Path, modality: str) -> Path:
    """The scan of the first subject."""
    return sorted((data_dir / f"IXI-{modality}").iterdir())[0]


def save(path: Path, data: np.ndarray[tuple[int, ...], np.dtype[np.float32]], affine: object = AFFINE) -> None:
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


def noise(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


# SCANS


def test_a_subject_without_a_modality_is_listed_and_the_run_goes_on(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan(data_dir, "T1").unlink()
    command = ["--clients", "2", "--data", str(data_dir), "--out", str(tmp_path / "run"), *SMALL, "rounds=1"]
    assert main([*command, f"data.cache_dir={tmp_path / 'cache'}"]) == 0
    out = capsys.readouterr().out
    assert "4 subjects at 2 sites: Guys 2, HH 2" in out
    assert "skipped 1: no T1 x1 (first: IXI100 1100)" in out


def test_a_modality_that_nobody_has(data_dir: Path, refused: Callable[..., str]) -> None:
    shutil.rmtree(data_dir / "IXI-PD")
    message = refused(data_dir)
    assert "no subject" in message
    assert "has PD; there is T1 (5 subjects), T2 (5 subjects)" in message
    assert "--scenario" in message


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def far_away(path: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 3] = 900.0
    save(path, noise(*SHAPE), affine)


def with_nan(path: Path) -> None:
    data = noise(*SHAPE)
    data[3, 3, 3] = np.nan
    save(path, data)


@pytest.mark.parametrize(
    ("modality", "spoil", "cause"),
    [
        pytest.param("T2", truncate, "probably truncated", id="truncated gzip"),
        pytest.param("T2", lambda path: path.write_bytes(b"not gzip"), "not a readable NIfTI file", id="not gzip"),
        pytest.param("T2", lambda path: save(path, noise(*SHAPE, 3)), "shape (40, 36, 8, 3)", id="4-D"),
        pytest.param("T2", with_nan, "NaN or infinity in 1 voxels", id="NaN"),
        pytest.param("PD", lambda path: save(path, np.full(SHAPE, 7, np.float32)), "is constant", id="constant"),
        pytest.param("T1", far_away, "covers 0% of the head", id="grids apart"),
    ],
)
def test_an_unusable_scan(
    data_dir: Path, refused: Callable[..., str], modality: str, spoil: Callable[[Path], None], cause: str
) -> None:
    path = scan(data_dir, modality)
    spoil(path)
    message = refused(data_dir)
    assert cause in message
    assert str(path) in message or f"IXI100, session 1100: {modality}" in message
    assert "data.exclude=[IXI100]" in message


def test_the_way_out_that_the_message_offers(data_dir: Path, tmp_path: Path) -> None:
    truncate(scan(data_dir, "T2"))
    command = ["--clients", "2", "--data", str(data_dir), "--out", str(tmp_path / "run"), *SMALL, "rounds=1"]
    assert main([*command, f"data.cache_dir={tmp_path / 'cache'}", "data.exclude=[IXI100]"]) == 0


# FOLDERS AND SITE MAPS


def test_an_empty_folder(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "empty").mkdir()
    message = refused(tmp_path / "empty")
    assert "0 NIfTI files" in message
    assert "IXI012-HH-1211-T1.nii.gz" in message


def test_a_missing_folder(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert f"cannot read the folder {tmp_path / 'nowhere'}" in refused(tmp_path / "nowhere")


def test_a_file_as_data_folder(tree: Path, refused: Callable[..., str]) -> None:
    assert "Not a directory; check its name" in refused(scan(tree, "T1"))


def test_the_wrong_layout(tree: Path, refused: Callable[..., str]) -> None:
    assert "is not in the brats layout; its names fit --layout ixi" in refused(tree, "--layout", "brats")


def test_an_unknown_layout(tree: Path, refused: Callable[..., str]) -> None:
    assert "expected one of ['ixi', 'brats', 'bids']" in refused(tree, "--layout", "dicom")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (None, "No such file or directory; check --sites"),
        ("name,where\nIXI100,Guys\n", "has no column that gives the site; its columns are name, where"),
        ("Partition_ID,Subject_ID\n1,patient-7\n", "names no subject of this layout"),
        ("Partition_ID,Subject_ID\n1,IXI100\n2,IXI100\n", "IXI100 is at site1 in line 2 and at site2 in line 3"),
    ],
)
def test_site_maps(tree: Path, tmp_path: Path, refused: Callable[..., str], text: str | None, cause: str) -> None:
    path = tmp_path / "sites.csv"
    if text is not None:
        path.write_text(text)
    message = refused(tree, "--sites", str(path))
    assert cause in message
    assert str(path) in message


def test_a_subject_whose_names_say_two_sites(data_dir: Path, refused: Callable[..., str]) -> None:
    path = scan(data_dir, "T1")
    path.rename(path.with_name(path.name.replace("Guys", "HH")))
    message = refused(data_dir)
    assert "IXI100 is at two sites" in message
    assert "data.exclude=[IXI100]" in message


# SETTINGS


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (("--scenario", "T1,FLAIR:PD"), "has FLAIR; there is PD (5 subjects)"),
        (("--scenario", "t1:PD"), "write T1 for t1"),
        (("--scenario", "T1,T2"), "write sources, a colon and one target, such as T1,T2:PD"),
        (("--clients", "9"), "there are 5 subjects; pass --clients from 1 to 5"),
        (("--clients", "0"), "clients=0 must be at least 1"),
        (("--partition", "random"), "expected one of ['site', 'iid']"),
        (("training.local_stps=4",), "Did you mean: 'local_steps'?"),
        (("trainin.local_steps=4",), "Did you mean: 'training'?"),
        (("training.learning_rate=fast",), "setting training.learning_rate"),
        (("training.learning_rate=nan",), "must be a positive number"),
        (("model.conv=cagrr",), "choose one of cagr, plain"),
        (("model.dims=4",), "choose one of 2, 3"),
        (("model.dims=3", "grid.crop=[48,48,31]"), "each size must be a multiple of"),
        (("training=4",), "--help-config"),
        (("rounds=[1",), "a bracket or quote is not closed"),
        (("data.exclude=IXI100",), "setting data.exclude: needs a list"),
        (("data.exclude=[IXI999]",), "there is no subject 'IXI999'"),
        (("hello",), "settings are written key=value"),
        (("--dp", "8"), "--dp 8: write a setting of privacy, for example --dp epsilon=8"),
        (("reference=PD",), "choose T1, T2"),
        (("device=cuda:9",), "device=auto"),
        (("device=tpu",), "device=tpu cannot be used on this machine; set device=auto"),
        (("--config", "nowhere.yaml"), "config file nowhere.yaml does not exist"),
    ],
)
def test_settings(tree: Path, refused: Callable[..., str], more: tuple[str, ...], cause: str) -> None:
    assert cause in refused(tree, *more)


@pytest.mark.parametrize(
    ("text", "cause"),
    [("rouns: 3\n", "Did you mean: 'rounds'?"), ("a: [1,\n", "cannot read config file"), ("- 3\n", "is a list")],
)
def test_config_files(tree: Path, tmp_path: Path, refused: Callable[..., str], text: str, cause: str) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    assert cause in refused(tree, "--config", str(tmp_path / "settings.yaml"))


def test_not_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--rounds", "zero"])
    assert stop.value.code == 2
    assert "argument --rounds: invalid int value: 'zero'" in capsys.readouterr().err


def test_ray_that_is_not_installed(tree: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # what Python itself does with a module that must not be found
    assert "pip install '.[ray]'" in refused(tree, "engine=ray")


def test_sites_of_the_built_in_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data.phantom_sites=Guys", "--out", str(tmp_path / "run")]) == 2
    assert "'Guys' is not NAME:COUNT" in capsys.readouterr().err
    assert not contents(tmp_path)


# WHERE THE RESULT GOES


def test_an_output_that_cannot_be_written(tree: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "file").write_text("")
    message = refused(tree, out_dir=tmp_path / "file" / "run")
    assert "choose another --out" in message
    assert not (tmp_path / "cache").exists()  # said before hours of reading scans
    assert "choose another --out" in refused(tree, out_dir=tmp_path / "file")


def test_a_run_folder_that_is_not_empty(tree: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    message = refused(tree)
    assert "is not empty; choose another --out" in message
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written(tree: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "file").write_text("")
    message = refused(tree, f"data.cache_dir={tmp_path / 'file' / 'cache'}")
    assert str(tmp_path / "file" / "cache") in message


def test_a_cache_larger_than_the_disk(tree: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    """A working grid of 10^15 bytes; the size is predicted, so nothing is written."""
    message = refused(tree, "grid.spacing_mm=[0.002,0.002,0.002]")
    assert "The cache needs" in message
    assert "data.cache_dir" in message
    assert not contents(tmp_path / "cache")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 200 KB."""
    disk_dir = tmp_path / "disk"
    disk_dir.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(disk_dir)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        yield disk_dir
    finally:
        subprocess.run(["umount", str(disk_dir)], check=True)


def test_a_disk_too_small_for_the_cache(tree: Path, tiny_disk: Path, refused: Callable[..., str]) -> None:
    message = refused(tree, f"data.cache_dir={tiny_disk / 'cache'}")
    assert "The cache needs" in message
    assert not contents(tiny_disk)


def test_a_disk_that_fills_up_during_the_run(
    tree: Path, tiny_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was finished is kept, whole, and the same command goes on once there is space."""
    command = ["--clients", "2", "--data", str(tree), "--out", str(tiny_disk / "run"), *SMALL]
    command.append(f"data.cache_dir={tmp_path / 'cache'}")
    assert main(command) == 2
    message = capsys.readouterr().err
    assert_one_message(message, tmp_path)
    assert "The disk is full" in message
    assert str(tiny_disk / "run") in message
    subprocess.run(["mount", "-o", "remount,size=20m", str(tiny_disk)], check=True)
    assert main([*command, "--resume"]) == 0
    assert (tiny_disk / "run" / "report.html").is_file()


# DURING THE RUN


def test_a_loss_that_is_not_finite(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    command = ["--clients", "2", "--data", str(tree), "--out", str(tmp_path / "run"), *SMALL]
    assert main([*command, f"data.cache_dir={tmp_path / 'cache'}", "training.weight_decay=1e30"]) == 2
    assert_one_message(message := capsys.readouterr().err, tmp_path)
    assert "0 of 2 sites gave a usable answer" in message
    assert "at Guys in round" in caplog.text  # the cause, at the site alone
    assert "start a new run with a lower training.learning_rate" in caplog.text
    assert [event.site for event in events_of(tmp_path / "run", SiteFailed)] == ["Guys", "HH"]


# RESUME


def test_resume_without_a_run(tree: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "holds no run (config.yaml is missing)" in refused(tree, "--resume")


def test_resume_where_no_run_was_ever_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--resume"]) == 2
    assert_one_message(message := capsys.readouterr().err, tmp_path)
    assert "there is no run in runs/ to resume" in message


def test_resume_with_other_settings(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(finished)
    more = ["training.local_steps=9", "model.widths=[8,16,32]", "grid.crop=[64,64]"]
    assert main(["--out", str(finished), "--resume", *more]) == 2
    assert_one_message(message := capsys.readouterr().err, finished)
    assert "training.local_steps=2 there, 9 here" in message
    assert "model.widths=[8, 16] there, [8, 16, 32] here" in message
    assert contents(finished) == before


def test_resume_on_other_subjects(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    command = ["--clients", "2", "--data", str(data_dir), "--out", str(tmp_path / "run"), *SMALL, "rounds=1"]
    assert main([*command, f"data.cache_dir={tmp_path / 'cache'}"]) == 0
    scan(data_dir, "T1").unlink()
    message = refused(data_dir, "rounds=1", "--resume")
    assert "scans were added, removed or renamed" in message


@pytest.mark.parametrize("more", [["--resume"], ["--resume", "--compare"], []])
def test_a_cell_is_resumed_with_its_run_alone(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By itself it would open a second ledger, of which the whole run's report knows nothing."""
    vocabulary_run(tmp_path / "run")
    cell, before = tmp_path / "run" / "cells" / "T2-to-PD", contents(tmp_path / "run")
    monkeypatch.chdir(cell)
    for out in (str(cell), "."):
        assert main(["--out", out, *more]) == 2
        assert_one_message(message := capsys.readouterr().err, tmp_path)
        assert f"is a cell of the run {tmp_path / 'run'}; name the whole run" in message
    assert contents(tmp_path / "run") == before


# PHANTOM AND SYNTHESIZE


def test_phantom_into_a_folder_that_is_not_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("years of work")
    assert agi_core(["phantom", "--out", str(tmp_path / "data")]) == 2
    assert_one_message(message := capsys.readouterr().err, tmp_path)
    assert "not an empty folder" in message
    assert len(contents(tmp_path)) == 2


def test_phantom_below_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert agi_core(["phantom", "--sites", "Guys:1", "--out", str(tmp_path / "file" / "data")]) == 2
    assert_one_message(message := capsys.readouterr().err, tmp_path)
    assert "could not be written" in message


T1, T2, GONE = "T1={T1}", "T2={T2}", "T2=gone.nii.gz"


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        pytest.param(["--source", T1], "was given T1 and", id="missing source"),
        pytest.param(["--source", T1, "--source", "FLAIR={T2}"], "was given T1, FLAIR", id="unknown modality"),
        pytest.param(["--source", T1, "--source", T1, "--source", T2], "was given T1, T1, T2", id="source twice"),
        pytest.param(["--source", T1, "--source", T2, "--grid", "PD"], "the grid of PD", id="unknown grid"),
        pytest.param(["--source", T1, "--source", GONE], "gone.nii.gz does not exist", id="missing file"),
        pytest.param(["--source", T1, "--source", T2, "--run", "{tree}"], "holds no run", id="no run"),
        pytest.param(["--source", T1, "--source", T2, "--out", "{T1}"], "is one of the sources", id="out is source"),
        pytest.param(["--source", T1, "--source", T2, "--out", "pd.png"], "Let it end in .nii", id="no NIfTI name"),
        pytest.param(["--source", T1, "--source", T2, "--out", "{T1}/x.nii"], "could not be written", id="unwritable"),
    ],
)
def test_synthesize(
    finished: Path,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    cause: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = scan(tree, "T1").read_bytes()
    filled = [option.format(T1=scan(tree, "T1"), T2=scan(tree, "T2"), tree=tree) for option in options]
    command = ["synthesize", "--run", str(finished), "--out", str(tmp_path / "pd.nii.gz"), *filled]
    assert agi_core(command) == 2
    assert_one_message(message := capsys.readouterr().err, tmp_path)
    assert cause in message
    assert not contents(tmp_path)
    assert scan(tree, "T1").read_bytes() == before


@pytest.mark.parametrize("words", [["adapt", "--run", "{run}", "--data"], ["segment", "--train"], ["pretrain"]])
@pytest.mark.parametrize(("out", "cause"), [("own.nii.gz", "end in .safetensors"), ("f.safetensors", "is a folder")])
def test_an_output_that_cannot_be_is_found_before_the_work(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], out: str, cause: str
) -> None:
    """There are no scans either, and they are not what is complained of."""
    (tmp_path / "f.safetensors").mkdir()
    nowhere = str(tmp_path / "nowhere")
    data = f"data.dir={nowhere}" if words == ["pretrain"] else nowhere
    command = [word.format(run=finished) for word in words]
    assert agi_core([*command, data, "--out", str(tmp_path / out)]) == 2
    assert cause in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["phantom", "--out", "x", "--seed", "-1"], "a whole number from 0 on"),
        (["synthesize", "--run", "x", "--out", "y.nii", "--source", "scan.nii"], "write MODALITY=FILE"),
        (["synthesize", "--run", "x", "--out", "y.nii", "--source", "T1=a", "--batch-size", "0"], "from 1 on"),
        ([], "phantom | pretrain | synthesize"),
    ],
)
def test_options(capsys: pytest.CaptureFixture[str], options: list[str], cause: str) -> None:
    with pytest.raises(SystemExit) as stop:
        agi_core(options)
    assert stop.value.code == 2
    assert cause in capsys.readouterr().err
