"""One zip from a run: what is in it, what is not, and that it makes the same voxels as the run folder."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np
import pytest
from safetensors.numpy import load

from agi_core import known_range
from agi_core.__main__ import main
from agi_core.config.schema import PrivacyConfig
from agi_core.errors import DataError
from agi_core.export import bundle
from agi_core.export.archive import ROOT, read_archive
from agi_core.known_range import KnownRange, names_of
from agi_core.network import CPU
from agi_core.run import error_model, run_folder
from agi_core.run.checkpoint import WEIGHTS, save_checkpoint
from agi_core.run.own_weights import style_path, write_own_weights
from agi_core.run.summary import read_summary, write_summary
from agi_core.uncertainty import ErrorModel
from tests.support.finished_run import finished_run
from tests.support.small_data import write_head

CROP = (32, 16, 16)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run` and `model.zip`, of a 3-D model: its graphs are refused at once."""
    folder = tmp_path_factory.mktemp("exported")
    finished_run(folder / "run", dims=3, crop=CROP)
    summary = read_summary(folder / "run")
    assert summary is not None
    write_summary(folder / "run", dataclasses.replace(summary, flags=["look at A"]))
    (folder / "run" / "sites" / "A" / "heads").mkdir(parents=True)
    (folder / "run" / "sites" / "A" / "heads" / "own.safetensors").write_bytes(b"the last layer of A")
    assert main(["export", "--run", str(folder / "run"), "--out", str(folder / "model.zip")]) == 0
    with zipfile.ZipFile(folder / "model.zip") as zipped:
        zipped.extractall(folder)
    for m, modality in enumerate(("T1", "T2")):
        write_head(folder / "subjects" / "one" / f"{modality}.nii.gz", seed=1, contrast=1 + m)
    return folder


def sources(folder: Path) -> list[str]:
    return [f"--source={m}={folder / 'subjects' / 'one' / f'{m}.nii.gz'}" for m in ("T1", "T2")]


def test_the_zip_makes_the_same_voxels_as_the_run(exported: Path, tmp_path: Path) -> None:
    made = []
    for place in (["--run", str(exported / "run")], ["--model", str(exported / "model.zip")]):
        out_path = tmp_path / f"{len(made)}.nii.gz"
        assert main(["synthesize", *place, *sources(exported), "--out", str(out_path)]) == 0
        made.append(nibabel.load(out_path).get_fdata())
    assert made[0].std() > 0.01
    np.testing.assert_array_equal(made[0], made[1])


@pytest.mark.slow
def test_monai_runs_the_bundle_with_nothing_of_ours_but_what_is_in_it(exported: Path, tmp_path: Path) -> None:
    """From inside of the unpacked folder, whose `agi_core` comes first."""
    given = {"dataset_dir": str(exported / "subjects"), "output_dir": str(tmp_path)}
    code = f"from monai.bundle import run; run(config_file='configs/inference.json', **{given})"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=exported / ROOT, env=environment, check=True, capture_output=True)
    assert main(["synthesize", "--run", str(exported / "run"), *sources(exported), f"--out={tmp_path / 'r.nii'}"]) == 0
    bundle, run = (nibabel.load(tmp_path / name).get_fdata() for name in ("one.nii.gz", "r.nii"))
    np.testing.assert_allclose(bundle, run, atol=1e-4)


def test_a_graph_that_the_zip_does_not_have(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = f"--graph={exported / ROOT / 'models' / 'model.pt2'}"
    monkeypatch.setattr(sys, "argv", ["bundle", graph, *sources(exported), f"--out={tmp_path / 'o.nii'}"])
    assert bundle.main() == 2
    assert "model.pt2 does not exist; docs/README.md of the zip says" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "module"), [("model.pt2", "torch"), ("model.onnx", "onnxruntime")])
def test_a_graph_that_cannot_be_opened_is_named(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    module: str,
) -> None:
    pytest.importorskip(module)
    shutil.copytree(exported / ROOT / "configs", tmp_path / "zip" / "configs")
    path = tmp_path / "zip" / "models" / name
    path.parent.mkdir()
    path.write_bytes(b"cut off")
    command = ["bundle", f"--graph={path}", *sources(exported), f"--out={tmp_path / 'o.nii'}"]
    monkeypatch.setattr(sys, "argv", command)
    assert bundle.main() == 2
    assert f"error: {path} cannot be opened (" in (message := capsys.readouterr().err)
    assert message.count("\n") == 1
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    assert bundle.main() == 2
    assert f"needs {module}: pip install {module}" in capsys.readouterr().err


def test_what_a_user_of_an_unpacked_zip_gets_wrong(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = exported / ROOT
    twice = [f"--graph={root / 'models' / 'model.onnx'}", *sources(exported), *sources(exported)[:1], "--out=o.nii"]
    monkeypatch.setattr(sys, "argv", ["bundle", *twice])
    assert bundle.main() == 2
    assert "--source T1 is given 2 times" in capsys.readouterr().err
    network, given = bundle.open_network(str(root), CPU), exported / "subjects" / "one"
    evaluator = bundle.FolderEvaluator(network, bundle_root=str(root), dataset_dir=str(given), output_dir=str(tmp_path))
    with pytest.raises(DataError, match="one holds no folder; give --dataset_dir with a folder for each subject"):
        evaluator.run()


def test_what_doubts_a_volume_travels_without_those_it_was_learnt_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hospital that has the zip alone gets the map and the verdict of the run."""
    network, counts = finished_run(tmp_path / "run", dims=3, crop=CROP), np.zeros(66, dtype=np.int64)
    counts[40] = 100
    layer = np.eye(1, len(network.readout))[0] * 0.1
    errors = ErrorModel(layer, counts, 8, 2, ("0123456789abcdef",))
    error_model.write_error_model(tmp_path / "run" / error_model.NAME, errors, network=network)
    names = names_of(network)
    means = dict.fromkeys(names, 0.5) | {"head: volume, litres": 99.0}
    spreads = dict.fromkeys(names, 1e4) | {"head: volume, litres": 1.0}
    KnownRange("training", 9, means, spreads).write(tmp_path / "run" / known_range.NAME)
    assert main(["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "m.zip")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("writing graphs")  # before the work, which takes minutes and tells nothing itself
    assert "no error model" not in printed
    assert "in it too: error model, from means over subjects without noise; to keep it, delete error_model" in printed
    assert "delete known_range.json of the run" in printed
    assert b"0123456789abcdef" not in b"".join(read_archive(tmp_path / "m.zip", release=version("agi-fed"))[2].values())
    given = []
    for m, modality in enumerate(("T1", "T2")):
        write_head(tmp_path / f"{modality}.nii.gz", seed=1, contrast=1 + m)
        given.append(f"--source={modality}={tmp_path / modality}.nii.gz")
    made = []
    for place in (["--run", str(tmp_path / "run")], ["--model", str(tmp_path / "m.zip")]):
        out, map_path = f"--out={tmp_path / 'o.nii'}", tmp_path / f"{len(made)}.nii"
        assert main(["synthesize", *place, *given, out, f"--uncertainty={map_path}", "--strict"]) == 3
        assert "out of what the model knows: head: volume, litres" in capsys.readouterr().err
        made.append(nibabel.load(map_path).get_fdata())
    np.testing.assert_array_equal(made[0], made[1])
    assert made[0].max() == pytest.approx(0.1, rel=0.01)

    private = dataclasses.replace(run_folder.open_existing(tmp_path / "run"), privacy=PrivacyConfig(epsilon=8.0))
    run_folder.write_config(tmp_path / "run", private)
    assert main(["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "m.zip")]) == 0
    assert "no known range in it: a private run has none that is noised" in capsys.readouterr().out
    assert read_archive(tmp_path / "m.zip", release=version("agi-fed"))[2] == {}


def test_a_last_layer_that_a_site_shares_travels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of B belongs to other weights of the run."""
    run_dir, zip_path = tmp_path / "run", tmp_path / "m.zip"
    network, other = (finished_run(path, dims=3, crop=CROP) for path in (run_dir, tmp_path / "other"))
    own = {"head.bias": np.full(1, 0.9, dtype=np.float32)}
    write_own_weights(style_path(run_dir, "A"), own, network=network)
    other.set_readout(-other.readout)
    write_own_weights(style_path(run_dir, "B"), own, network=other)
    write_own_weights(style_path(run_dir, "x\x1b[31m\n"), own, network=network)  # no site is called so
    assert main(["export", "--run", str(run_dir), "--out", str(zip_path)]) == 0
    printed = capsys.readouterr().out
    assert "in it too: the last layer that A shares, from its own subjects without noise; to keep it, delete" in printed
    assert "no last layer of B in it: it belongs to other weights of the run than these" in printed
    assert "\x1b" not in printed
    with zipfile.ZipFile(zip_path) as zipped:
        assert f"{ROOT}/models/styles/A.safetensors" in zipped.namelist()
        assert (
            "each solved from that site's own subjects without noise: A. `"
            in zipped.read(f"{ROOT}/docs/README.md").decode()
        )
    for m, modality in enumerate(("T1", "T2")):
        write_head(tmp_path / "subjects" / "one" / f"{modality}.nii.gz", seed=1, contrast=1 + m)
    made, place = [], f"--model={zip_path}"
    for options in ([place], [place, "--style=A"], [f"--run={run_dir}", "--style=A"]):
        out_path = tmp_path / f"{len(made)}.nii.gz"
        assert main(["synthesize", *options, *sources(tmp_path), "--out", str(out_path)]) == 0
        made.append(nibabel.load(out_path).get_fdata())
    assert capsys.readouterr().out.startswith("common last layer; --head takes a site's own; styles to be had: A\n")
    np.testing.assert_array_equal(made[1], made[2])
    assert (made[1] - made[0]).max() > 0.1
    assert main(["synthesize", place, *sources(tmp_path), f"--out={tmp_path / 'o.nii'}", "--style=B"]) == 2
    assert "m.zip has no weights of B's own; take one of A, or leave --style out" in capsys.readouterr().err


def test_a_zip_without_them_says_so(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = (exported / ROOT / "docs" / "README.md").read_text()
    assert "* error model, from means over subjects without noise: not in this zip: the run has none" in card
    command = ["synthesize", f"--model={exported / 'model.zip'}", *sources(exported), f"--out={tmp_path / 'o.nii'}"]
    assert main([*command, f"--uncertainty={tmp_path / 'e.nii'}"]) == 2
    assert "model.zip has no error model; calibrate its run, and export it again" in capsys.readouterr().err
    assert "No last layer of a single site is in this zip." in card
    assert main([*command, "--style", "A"]) == 2
    assert "there is none: real sites share theirs by policy.share_last_layer" in capsys.readouterr().err
    assert main([*command, "--strict"]) == 2
    assert "--strict needs the known range of T1,T2:PD" in capsys.readouterr().err


def test_what_is_of_one_site_or_of_this_machine_stays(exported: Path) -> None:
    with zipfile.ZipFile(exported / "model.zip") as zipped:
        content = {name: zipped.read(name) for name in zipped.namelist()}
    assert not [name for name, data in content.items() if "heads" in name or b"the last layer of A" in data]
    ours = {name: data for name, data in content.items() if "/agi_core/" not in name}
    assert not [name for name, data in ours.items() if str(exported).encode() in data]
    assert b"subjects" not in ours[f"{ROOT}/configs/agi_fed.json"]


def test_the_bundle_has_what_monai_requires(exported: Path) -> None:
    root = exported / ROOT
    for name in ("LICENSE", "configs/inference.json", "models/model.pt", "docs/README.md"):
        assert (root / name).stat().st_size > 0
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    required = "version monai_version pytorch_version numpy_version required_packages_version task description authors"
    assert {*required.split(), "copyright", "network_data_format"} <= set(metadata)
    inputs = metadata["network_data_format"]["inputs"]["image"]
    assert inputs["channel_def"] == {"0": "T1", "1": "T2"}
    assert inputs["spatial_shape"] == ["n", "2*n", "2*n"]
    assert len(load((root / "models" / "model.safetensors").read_bytes())) > 10


def test_the_card_says_who_how_well_and_what_not(exported: Path) -> None:
    card = (exported / ROOT / "docs" / "README.md").read_text()
    for text in (
        "| site | training subjects | rounds |",
        "| A | 12 | 1 of 1 |",  # of 20 that are registered
        "| B | at most 10 | 1 of 1 |",  # as is known of it
        "Overlapping windows of 32 x 16 x 16, in the box",
        "Invited, but in no finished round: C.",
        "Worst site: B, 22.25 dB.",
        "Held back by the site: C.",
        "must not be used for diagnosis",
        "without differential privacy",
        "between its 0.5th and 99.5th percentile",
        "* The run warned: look at A.",
        "* ONNX: not in this zip: a 3-D model sees a volume through overlapping windows",
    ):
        assert text in card, text
    assert "one of its own" not in card  # the run has personal=none


@pytest.mark.parametrize("same", [False, True])
def test_the_card_says_which_weights_are_in_it(tmp_path: Path, same: bool) -> None:
    """The best ones were tested where the run went back to them; what is said of others is not of their test."""
    network = finished_run(tmp_path / "run", dims=3, crop=CROP)
    weights = network.weights if same else {name: array + 1 for name, array in network.weights.items()}
    best = {"round": 0, "psnr_db": 24.125}
    for round, its in ((0, weights), (1, network.weights)):
        arrays = {f"{WEIGHTS}{name}": array for name, array in its.items()}
        save_checkpoint(tmp_path / "run", round=round, arrays=arrays, state={"best": best})
    assert main(["export", f"--run={tmp_path / 'run'}", f"--out={tmp_path / 'm.zip'}", "--weights=best"]) == 0
    with zipfile.ZipFile(tmp_path / "m.zip") as zipped:
        card = zipped.read(f"{ROOT}/docs/README.md").decode()
    told = "after round 0 of 1, the best by validation (24.12 dB, the median over sites). **Nobody has tested them.**"
    assert (told in card) == (not same)
    assert ("**Of the last model, after round 1, and not of the weights in this zip.**" in card) == (not same)
    assert ("It was tested on 0 subjects" in card) == (not same)
    assert ("weights are the last ones of the run, after round 1 of 1." in card) == same
    assert "python -m agi_core calibrate --weights best makes it" in card


def test_refusals_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--run", str(tmp_path), "--out", str(tmp_path / "m.zip")]) == 2
    told = capsys.readouterr()
    assert "holds no run" in told.err
    assert not told.out
    assert main(["export", "--run", str(tmp_path), "--out", str(tmp_path / "m.tar")]) == 2
    assert "let it end in .zip" in capsys.readouterr().err
    (tmp_path / "m.zip").write_bytes(b"no zip")
    given = ["--source", "T1=a.nii", "--out", str(tmp_path / "o.nii")]
    assert main(["synthesize", "--model", str(tmp_path / "m.zip"), *given]) == 2
    assert "is no zip of a model" in capsys.readouterr().err
    assert main(["synthesize", "--model", str(tmp_path / "m.zip"), *given, "--weights", "best"]) == 2
    assert "a zip holds one model" in capsys.readouterr().err
