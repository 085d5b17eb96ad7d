"""`python -m agi_core evaluate` as a whole: a run and a folder that something else made, and what it refuses."""

import csv
import json
import re
import shutil
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as save_tensors

from agi_core.__main__ import main as agi_core
from agi_core.config.load import load_config
from agi_core.export.archive import DESCRIPTION, WEIGHTS, write_archive
from agi_core.export.description import Description
from agi_core.metric_table import SEGMENTED_METRIC_NAMES
from agi_core.run import run_folder
from agi_core.run.checkpoint import trained_weights
from agi_core.run.event_log import events_of
from agi_core.run.events import ModelTested
from agi_core.segmentation.segmenter import read_segmenter
from simulations.run import main as simulate
from tests.support.brats_tree import AFFINE, labels_of, read, save, write_subject
from tests.support.finished_run import finished_run
from tests.support.small_data import SMALL
from tests.support.small_federation import federate
from tests.support.toy_segmenter import train_toy

NAMES = [f"BraTS-GLI-{number:05}-000" for number in range(1, 5)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four subjects; not to be changed."""
    root = tmp_path_factory.mktemp("brats")
    for number in range(1, 5):
        write_subject(root, number)
    return root


@pytest.fixture
def folders(tree: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the tree, and a flat folder with a t2f of three of them that has noise."""
    data, made = tmp_path / "data", tmp_path / "made"
    shutil.copytree(tree, data)
    for number, name in enumerate(NAMES[:3]):
        real = read(data / name / f"{name}-t2f.nii.gz")
        noise = np.random.default_rng(number).normal(0, 20 * (1 + number), real.shape)
        save(made / f"{name}-t2f.nii.gz", np.where(real > 0, real + noise, 0).astype(np.float32))
    return data, made


def table(out: Path) -> list[dict[str, str]]:
    with (out / "subjects.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def refused(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command says when it refuses; checks that it ends with 2, without a traceback, and leaves nothing."""

    def run(*more: str) -> str:
        before, (data, made) = sorted(tmp_path.rglob("*")), folders
        command = ["--synthetic", str(made), "--data", str(data), "--layout", "brats", "--out", str(tmp_path / "out")]
        assert agi_core(["evaluate", *command, *more]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert re.fullmatch("error: .*\n", said.err)
        assert sorted(tmp_path.rglob("*")) == before
        return said.err

    return run


def test_a_folder_that_anything_made(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, made = folders
    out = tmp_path / "out"
    assert (
        agi_core(["evaluate", "--synthetic", str(made), "--data", str(data), "--layout", "brats", "--out", str(out)])
        == 0
    )
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.html", "subjects.csv", "summary.json"]

    rows = table(out)
    assert [f"{row['subject']}-{row['session']}" for row in rows] == NAMES[:3]
    summary = json.loads((out / "summary.json").read_text())
    psnr = [float(row["psnr_db_tumour"]) for row in rows]
    assert psnr == sorted(psnr, reverse=True)  # more noise, less of it
    figure = summary["figures"]["psnr_db_tumour"]
    assert figure["mean"] == pytest.approx(np.mean(psnr), abs=1e-3)
    assert figure["low"] < figure["mean"] < figure["high"]
    assert (figure["subjects"], summary["subjects"], summary["modalities"]) == (3, 3, ["t2f"])
    assert summary["notes"] == ["no synthetic volume, and so not scored: 1 (BraTS-GLI-00004 000)"]

    said = capsys.readouterr().out
    assert re.search(
        rf"PSNR \(dB\), tumour +{figure['mean']:.2f} +{figure['low']:.2f} to {figure['high']:.2f} +n = 3", said
    )
    assert "warning: no synthetic volume, and so not scored: 1 (BraTS-GLI-00004 000)" in said

    page = (out / "evaluation.html").read_text()
    assert page.count("<figure>") == 3 * 5
    assert f"{figure['mean']:.2f}" in page
    assert "(subject)" not in page.split("Slices")[1]
    assert not [name for name in NAMES if name[:-4] in page]
    assert "not scored: 1 ((subject) 000)" in page
    assert not re.search(r"https?:|<script|src=\"(?!data:)", page)


def test_a_run(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own test subject is scored, and none of those that trained it or chose its best round."""
    run, out, trained = tmp_path / "run", tmp_path / "out", tmp_path / "trained"
    overrides = {"data.dir": str(tree), "data.layout": "brats", "data.cache_dir": str(tmp_path / "cache"), "clients": 1}
    settings = [*SMALL, "training.align_target=true"]
    federate(load_config(None, overrides=overrides | {"scenario": "t1n,t1c,t2w:t2f"}, assignments=settings), run)
    (split,) = json.loads((run / "splits.json").read_text()).values()
    capsys.readouterr()

    assert agi_core(["evaluate", "--run", str(run), "--data", str(tree), "--out", str(out)]) == 0
    (row,) = table(out)
    assert [row["subject"]] == split["test"]
    name = f"{row['subject']}-000"
    assert (out / "volumes" / name / f"{name}-t2f.nii.gz").is_file()
    left_out = ", ".join(sorted(split["train"] + split["validation"]))
    notes = json.loads((out / "summary.json").read_text())["notes"]
    assert notes[0] == f"used in training or validation, and so not scored: {left_out}"
    assert notes[1].startswith("trained for the target's place on t2w; ")
    assert not [note for note in notes if note.startswith("no synthetic volume")]

    reached = events_of(run, ModelTested)[-1].scores.final["psnr_db_foreground"]
    assert float(row["psnr_db_head"]) == pytest.approx(reached, abs=0.02)  # the cache has float16, the file steps

    archive, by_zip = tmp_path / "model.zip", tmp_path / "by-zip"
    description = Description.of(run_folder.open_existing(run), release=version("agi-fed"))
    files = {DESCRIPTION: json.dumps(description.to_json()).encode(), WEIGHTS: save_tensors(trained_weights(run))}
    write_archive(archive, files)  # `export` makes graphs too, which takes a minute
    command = ["evaluate", "--model", str(archive), "--data", str(tree), "--out", str(by_zip)]
    assert agi_core(command) == 2
    assert "Pass --layout" in capsys.readouterr().err
    assert agi_core([*command, "--layout", "brats"]) == 0  # a hospital that has the zip alone
    same = {each["subject"]: each for each in table(by_zip)}
    assert {*same} == {*split["train"], *split["validation"], *split["test"]}
    assert float(same[row["subject"]]["psnr_db_tumour"]) == pytest.approx(float(row["psnr_db_tumour"]), abs=1e-4)
    notes = json.loads((by_zip / "summary.json").read_text())["notes"]
    assert notes[0] == "which subjects trained the model is not known here; scores of those would be too good"

    partly = shutil.copytree(tree / name, tmp_path / "partly" / name).parent
    other = shutil.copytree(tree / name, partly / "BraTS-GLI-00009-000", ignore=shutil.ignore_patterns("*t1n*"))
    for path in other.iterdir():
        path.rename(other / path.name.replace(name, other.name))
    for path in other.glob("*-t*"):
        save(path, read(path) + np.int16(1))  # another person
    more = tmp_path / "more"
    assert agi_core(["evaluate", "--run", str(run), "--data", str(partly), "--out", str(more)]) == 0
    notes = json.loads((more / "summary.json").read_text())["notes"]
    assert "skipped 1: no t1n x1 (first: BraTS-GLI-00009 000)" in notes

    shutil.copytree(tree, trained, ignore=shutil.ignore_patterns(name))
    assert agi_core(["evaluate", "--run", str(run), "--data", str(trained), "--out", str(tmp_path / "two")]) == 2
    assert f"every subject of {trained} trained the model of {run}" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_bad_segmentations_are_refused(folders: tuple[Path, Path], refused: Callable[..., str]) -> None:
    data, _ = folders
    path = data / NAMES[1] / f"{NAMES[1]}-seg.nii.gz"
    save(path, labels_of(2), np.diag([2.0, 2.0, 2.5, 1.0]))
    assert f"{path} lies on another grid" in refused()
    save(path, labels_of(2) * 2)
    assert f"{path} holds the label 6" in refused()
    other = data / NAMES[0] / f"{NAMES[0]}-seg.nii.gz"
    save(other, labels_of(1) * 2)
    assert (both := refused()).startswith(f"error: {other} holds the label 6")
    assert f"Neither can these be used: {path}." in both


def test_bad_segmentations_are_refused_before_volumes_are_made(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(tmp_path / "run", scenario="t1n,t1c,t2w:t2f")
    data, _ = folders
    for number in (1, 3):
        save(data / NAMES[number] / f"{NAMES[number]}-seg.nii.gz", labels_of(number + 1) * 2)
    monkeypatch.delattr("agi_core.scoring.made_by_run.synthesize")
    place = ["--data", str(data), "--layout", "brats", "--out", str(tmp_path / "out")]
    assert agi_core(["evaluate", "--run", str(tmp_path / "run"), *place]) == 2
    said = capsys.readouterr().err
    assert f"{NAMES[1]}-seg.nii.gz holds the label 6" in said
    assert f"{NAMES[3]}-seg.nii.gz." in said


def test_the_segmenter_replaces_no_other_file(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"weights of something else")
    assert agi_core(["segment", "--train", str(tree), "--out", str(own), "--steps", "1"]) == 2
    assert "own.safetensors is there already; choose another --out" in capsys.readouterr().err
    assert own.read_bytes() == b"weights of something else"


def test_bad_volumes_are_refused(folders: tuple[Path, Path], refused: Callable[..., str]) -> None:
    data, made = folders
    path = made / f"{NAMES[2]}-t2f.nii.gz"
    good = read(path)
    save(path, good * 50)
    assert f"{path} is on another scale than {data}" in refused()
    save(path, np.where(good > 0, np.nan, 0).astype(np.float32))
    assert f"{path} holds NaN or infinity" in refused()
    path.write_bytes(path.read_bytes()[:2000])
    assert f"{path} cannot be read to its end" in refused()


def test_bad_arguments_are_refused(folders: tuple[Path, Path], refused: Callable[..., str], tmp_path: Path) -> None:
    assert "has no synthetic t1c" in refused("--target", "t1c")
    assert "nowhere: No such file or directory; check its name" in refused("--data", str(tmp_path / "nowhere"))
    assert "has no synthetic volume named as in the ixi layout" in refused("--layout", "ixi")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    assert "full is there already and not an empty folder" in refused("--out", str(tmp_path / "full"))


def test_a_run_writes_no_volumes_among_the_real_scans(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would be second scans of their visits."""
    finished_run(tmp_path / "run", scenario="t1n,t1c,t2w:t2f")
    data, _ = folders
    before = sorted(data.rglob("*"))
    command = ["evaluate", "--run", str(tmp_path / "run"), "--data", str(data), "--layout", "brats", "--out"]
    assert agi_core([*command, str(data / "scores" / "first")]) == 2
    assert f"first lies among the real scans of {data}; choose another --out" in capsys.readouterr().err
    assert sorted(data.rglob("*")) == before
    assert agi_core([*command, str(tmp_path / "first")]) == 0


def test_what_sigterm_ends_leaves_no_volumes(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch system sends it at the end of a job's time."""
    finished_run(tmp_path / "run", scenario="t1n,t1c,t2w:t2f")
    monkeypatch.setattr("agi_core.scoring.evaluation.score_pair", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    place = ["--data", str(folders[0]), "--layout", "brats", "--out", str(tmp_path / "scores" / "out")]
    assert agi_core(["evaluate", "--run", str(tmp_path / "run"), *place]) == 143
    assert not [*(tmp_path / "scores").iterdir()]


def test_labels_of_2020_score_as_those_of_2023(folders: tuple[Path, Path], tmp_path: Path) -> None:
    data, made = folders
    command = ["evaluate", "--synthetic", str(made), "--data", str(data), "--layout", "brats", "--out"]
    assert agi_core([*command, str(tmp_path / "new")]) == 0
    for path in data.rglob("*-seg.nii.gz"):
        labels = read(path)
        save(path, np.where(labels == 3, 4, labels).astype(np.uint8), AFFINE)
    assert agi_core([*command, str(tmp_path / "old")]) == 0
    assert (tmp_path / "old" / "subjects.csv").read_text() == (tmp_path / "new" / "subjects.csv").read_text()


@pytest.mark.slow  # it takes a few seconds, and the parts have tests of their own
def test_a_segmentation_network_of_the_command(tree: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Trained for one step, so its figures mean nothing; it knows whom it was trained on."""
    (_, made), network = folders, str(tmp_path / "net.safetensors")
    train = shutil.copytree(tree, tmp_path / "train", ignore=shutil.ignore_patterns(f"{NAMES[2]}*"))
    assert agi_core(["segment", "--train", str(train), "--steps", "1", "--out", network]) == 0
    command = ["evaluate", "--synthetic", str(made), "--data", str(tree), "--layout", "brats", "--segmenter", network]
    assert agi_core([*command, "--out", str(tmp_path / "out")]) == 0
    rows = {f"{row['subject']}-{row['session']}": row for row in table(tmp_path / "out")}
    assert [name for name, row in rows.items() if row["dice_WT_ceiling"]] == [NAMES[2]]
    assert {"lesion_dice_ET_floor", "lesion_hd95_mm_TC_regression", "dice_TC_synthetic"} <= rows[NAMES[2]].keys()
    told = json.loads((tmp_path / "out" / "summary.json").read_text())["segmenter"]
    assert re.fullmatch("[0-9a-f]{16}", told)
    assert read_segmenter(tmp_path / "out" / Path(network).name).hash == told  # kept with its figures
    assert agi_core([*command, "--segmenter", str(tmp_path / "none"), "--out", str(tmp_path / "two")]) == 2
    assert not (tmp_path / "two").exists()


def test_a_simulation_keeps_the_network_that_looks_for_the_tumours_of_its_test(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its figures are those of `evaluate`; one of the subjects that the run tests must not have trained it."""
    for number in (21, 22):
        write_subject(tmp_path / "others", number)
    segmenter = train_toy(tmp_path / "others")
    segmenter.write(tmp_path / "net.safetensors")
    train_toy(tree).write(tmp_path / "other.safetensors")
    run, cache = tmp_path / "run", f"data.cache_dir={tmp_path / 'cache'}"
    scans = ["--data", str(tree), "--layout", "brats", "--scenario", "t1n,t1c,t2w:t2f", "--clients", "1"]
    command = [*scans, "--out", str(run), *SMALL, cache, "rounds=1"]
    assert simulate([*command, f"data.segmenter={tmp_path / 'none'}"]) == 2
    assert "none is no segmentation network of this release" in capsys.readouterr().err
    assert not run.exists()
    assert simulate([*command, f"data.segmenter={tmp_path / 'net.safetensors'}"]) == 0
    assert read_segmenter(run / "segmenter.safetensors").hash == segmenter.hash
    final = events_of(run, ModelTested)[-1].scores.final
    out = tmp_path / "scores"
    with_it = ["--segmenter", str(run / "segmenter.safetensors"), "--out", str(out)]
    assert agi_core(["evaluate", "--run", str(run), "--data", str(tree), *with_it]) == 0
    figures = json.loads((out / "summary.json").read_text())["figures"]
    for name in SEGMENTED_METRIC_NAMES:
        if not name.startswith("lesion_hd95"):  # one voxel may be a lesion
            assert final[name] == pytest.approx(figures[name]["mean"], abs=0.02), name
    capsys.readouterr()
    (tmp_path / "other.safetensors").replace(tmp_path / "net.safetensors")
    assert simulate(["--resume", "--out", str(run)]) == 0  # it has its own
    shutil.copy(tmp_path / "net.safetensors", run / "segmenter.safetensors")
    assert simulate(["--resume", "--out", str(run)]) == 2
    assert f"and the run asks for {segmenter.hash}" in capsys.readouterr().err


def test_a_network_of_no_use_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*settings: str) -> str:
        assert simulate(["--dry-run", *settings]) == 2
        return capsys.readouterr().err

    assert "give a simulation the file: data.segmenter=FILE" in refused("evaluation.segmenter=0123456789abcdef")
    assert "and T1,T2:PD makes none of them" in refused("data.segmenter=net.safetensors")
    assert "and T1,T2,PD:any makes none of them" in refused(
        "--scenario", "T1,T2,PD:any", "data.segmenter=net.safetensors"
    )
    private = refused(
        "--layout", "brats", "--scenario", "t1n:t2f", "privacy.epsilon=8", "data.segmenter=net.safetensors"
    )
    assert "data.segmenter asks for figures in tumours, which no private run tells" in private
