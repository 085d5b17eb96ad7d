"""A folder completed: BraSyn's layout in and out, other layouts, and what is left out."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from agi_core import known_range
from agi_core.__main__ import main
from agi_core.data.nifti import read_volume
from agi_core.known_range import KnownRange, names_of
from agi_core.run.checkpoint import WEIGHTS, save_checkpoint
from tests.support.finished_run import finished_run
from tests.support.small_data import write_head, write_ixi
from tests.support.vocabulary_run import vocabulary_run

BRATS = ("t1n", "t1c", "t2w", "t2f")


@pytest.fixture(scope="module")
def of_brats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one scenario."""
    run_dir = tmp_path_factory.mktemp("single") / "run"
    finished_run(run_dir, scenario="t1n,t1c,t2w:t2f")
    return run_dir


def subject(root: Path, name: str, modalities: tuple[str, ...], *, seed: int) -> None:
    for number, modality in enumerate(modalities):
        sep = "_" if "BraTS2021" in name else "-"
        write_head(root / name / f"{name}{sep}{modality}.nii.gz", seed=seed, contrast=1 + 0.4 * number)


def complete(run_dir: Path, data: Path, out: Path, layout: str, *more: str) -> int:
    return main(
        ["synthesize", "--run", str(run_dir), "--data", str(data), "--layout", layout, "--out", str(out), *more]
    )


def test_brasyn_in_and_out(of_brats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three of four in; only the run's target can be made, and the others are named. A second time nothing changes."""
    data, out = tmp_path / "data", tmp_path / "out"
    subject(data, "BraTS-GLI-00001-000", BRATS[:3], seed=1)
    subject(data, "BraTS-GLI-00002-000", (*BRATS[:2], "t2f"), seed=2)
    subject(data, "BraTS-GLI-00003-000", BRATS, seed=3)
    subject(data, "BraTS-GLI-00004-000", BRATS[:2], seed=4)
    subject(data, "BraTS2021_00005", ("t1", "t1ce", "t2"), seed=5)
    subject(data, "BraTS-GLI-00006-000", BRATS[:3], seed=6)
    shutil.copy(*(data / "BraTS-GLI-00006-000" / f"BraTS-GLI-00006-000-{m}.nii.gz" for m in ("t1n", "t1c")))
    assert complete(of_brats, data, out, "brats") == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "BraTS-GLI-00001-000-t2f.nii.gz",
        "BraTS2021_00005_flair.nii.gz",
    ]
    told = capsys.readouterr().out
    assert "2 x t2f from t1n, t1c, t2w\n" in told
    assert "left out 2 x: nothing is missing; first BraTS-GLI-00002 000" in told
    assert "left out 1 x: no t2w; first t2f of BraTS-GLI-00004 000" in told
    assert "are the same image" in told

    made, first = out / "BraTS-GLI-00001-000-t2f.nii.gz", tmp_path / "one.nii.gz"
    sources = [f"--source={m}={data}/BraTS-GLI-00001-000/BraTS-GLI-00001-000-{m}.nii.gz" for m in BRATS[:3]]
    assert main(["synthesize", "--run", str(of_brats), *sources, "--out", str(first)]) == 0
    np.testing.assert_array_equal(read_volume(made).data, read_volume(first).data)

    before = made.read_bytes()
    assert complete(of_brats, data, out, "brats") == 0
    assert made.read_bytes() == before
    assert "left out 2 x: its file is there already; first t2f of BraTS-GLI-00001 000" in capsys.readouterr().out
    for other in (b"mine", b""):
        made.write_bytes(other)
        assert complete(of_brats, data, out, "brats") == 0
        assert made.read_bytes() == other
        told = capsys.readouterr().out
        assert "left out 1 x: its file is there already; first t2f of BraTS2021_00005" in told
        assert "left out 1 x: a file is there that is no synthetic volume; remove it; first t2f of BraTS-GLI-0" in told


def test_a_vocabulary_makes_what_each_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, data, out = tmp_path / "run", write_ixi(tmp_path / "data", {"Guys": 4}), tmp_path / "out"
    vocabulary_run(run_dir)
    for number, lacks in ((100, ["PD"]), (101, ["T1", "PD"]), (102, ["T2"])):
        for modality in lacks:
            next((data / f"IXI-{modality}").glob(f"IXI{number}-*")).unlink()
    shutil.copy(*((data / "IXI-T1" / f"IXI103-Guys-1103-T1.{end}") for end in ("nii.gz", "nii")))
    next((data / "IXI-PD").glob("IXI103-*")).unlink()
    assert complete(run_dir, data, out, "ixi") == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "IXI100-Guys-1100-PD.nii.gz",
        "IXI101-Guys-1101-PD.nii.gz",
        "IXI101-Guys-1101-T1.nii.gz",
    ]
    told = capsys.readouterr().out
    assert "1 x PD from T1, T2 (a blend: 25% from T1, 75% from T2)" in told
    assert "left out 1 x: no site of the run could train T2 from T1,PD, and it is no blend" in told
    assert "left out 1 x: several T1 in one session" in told

    assert complete(run_dir, data, tmp_path / "t1", "ixi", "--target", "T1") == 0
    assert [path.name for path in (tmp_path / "t1").iterdir()] == ["IXI101-Guys-1101-T1.nii.gz"]


def test_bids_folders_get_derivatives(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    finished_run(tmp_path / "run", scenario="T1w:FLAIR")
    write_head(data / "sub-01" / "anat" / "sub-01_T1w.nii.gz", seed=1, contrast=1)
    assert complete(tmp_path / "run", data, out, "bids") == 0
    assert (out / "sub-01" / "anat" / "sub-01_desc-synth_FLAIR.nii.gz").is_file()
    assert (out / "sub-01" / "anat" / "sub-01_desc-synth_FLAIR.json").is_file()
    assert (out / "dataset_description.json").is_file()
    (out / "sub-01" / "anat" / "sub-01_desc-synth_FLAIR.json").unlink()  # as where it was killed between the two
    assert complete(tmp_path / "run", data, out, "bids") == 0
    assert (out / "sub-01" / "anat" / "sub-01_desc-synth_FLAIR.json").is_file()


def test_another_data_set_keeps_its_description(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    finished_run(tmp_path / "run", scenario="T1w:FLAIR")
    write_head(data / "sub-01" / "anat" / "sub-01_T1w.nii.gz", seed=1, contrast=1)
    out.mkdir()
    (out / "dataset_description.json").write_text('{"Name": "mine"}')
    assert complete(tmp_path / "run", data, out, "bids") == 2
    assert "is another data set" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["dataset_description.json"]
    assert (out / "dataset_description.json").read_text() == '{"Name": "mine"}'


def test_each_volume_is_compared_with_what_the_model_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, data = tmp_path / "run", tmp_path / "data"
    network = finished_run(run_dir, scenario="t1n:t2f")
    subject(data, "BraTS-GLI-00001-000", BRATS[:1], seed=1)
    assert complete(run_dir, data, tmp_path / "first", "brats") == 0
    assert "t2f from t1n: not compared with the scans of training" in capsys.readouterr().out
    names = names_of(network)
    means = dict.fromkeys(names, 0.5) | {"head: volume, litres": 99.0}
    spreads = dict.fromkeys(names, 1e4) | {"head: volume, litres": 1.0}
    KnownRange("training", 9, means, spreads).write(run_dir / known_range.NAME)
    assert complete(run_dir, data, tmp_path / "second", "brats") == 0
    said = capsys.readouterr()
    assert "BraTS-GLI-00001 000: t2f: out of what the model knows: head: volume, litres is" in said.err
    assert "not compared" not in said.out
    made = tmp_path / "second" / "BraTS-GLI-00001-000-t2f.nii.gz"
    assert nibabel.load(made).header["descrip"].tobytes().startswith(b"OUT OF KNOWN RANGE: synthetic t2f")
    assert json.loads(made.with_name("BraTS-GLI-00001-000-t2f.json").read_text())["OutOfKnownRange"]


def test_what_is_said_of_a_volume_is_there_before_it(tmp_path: Path) -> None:
    """A model that has diverged stops the command where a kill may: after the verdict, and before the volume."""
    run_dir, data, out = tmp_path / "run", tmp_path / "data", tmp_path / "out"
    network = finished_run(run_dir, scenario="T1w:FLAIR")
    write_head(data / "sub-01" / "anat" / "sub-01_T1w.nii.gz", seed=1, contrast=1)
    KnownRange("training", 9, dict.fromkeys(names_of(network), 0.5), dict.fromkeys(names_of(network), 1e4)).write(
        run_dir / known_range.NAME
    )
    made = out / "sub-01" / "anat" / "sub-01_desc-synth_FLAIR.nii.gz"
    for weight, code in ((np.nan, 2), (0.5, 0)):
        bias = {"head.bias": np.full(1, weight, dtype=np.float32)}
        arrays = {f"{WEIGHTS}{name}": array for name, array in (network.weights | bias).items()}
        save_checkpoint(run_dir, round=1, arrays=arrays, state={"best": None})
        assert complete(run_dir, data, out, "bids") == code
        assert made.exists() == (code == 0)
        sidecar = json.loads(made.with_name("sub-01_desc-synth_FLAIR.json").read_text())
        assert {"Sources", "KnownRange", "OutOfKnownRange"} <= sidecar.keys()


@pytest.mark.parametrize(
    ("layout", "out", "options", "cause"),
    [
        ("brats", "data/out", [], "lies among the real scans"),
        ("ixi", "out", [], "its names fit --layout brats"),
        ("brats", "out", ["--target", "t1n"], "makes t2f, not t1n"),
        ("brats", "out", ["--target", "t1n", "--style", "HH"], "makes t2f, not t1n"),
        ("brats", "out", ["--source", "t1n=x.nii"], "leave --source out"),
        ("brats", "out", ["--uncertainty", "e.nii.gz"], "leave --uncertainty out"),
        ("brats", "out", ["--strict"], "leave --strict out"),
        ("brats", "out.nii.gz", [], "out.nii.gz: --data is a whole folder, so --out is one, too"),
        ("brats", "taken", [], "taken: --data is a whole folder, so --out is one, too"),
        ("brats", "out", [], "nothing could be made"),
    ],
)
def test_what_a_user_gets_wrong_is_said_and_nothing_is_written(
    of_brats: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    layout: str,
    out: str,
    options: list[str],
    cause: str,
) -> None:
    subject(tmp_path / "data", "BraTS-GLI-00004-000", BRATS[:2], seed=4)
    (tmp_path / "taken").touch()
    before = sorted(tmp_path.rglob("*"))
    assert complete(of_brats, tmp_path / "data", tmp_path / out, layout, *options) == 2
    message = capsys.readouterr().err
    assert cause in message
    assert message.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
