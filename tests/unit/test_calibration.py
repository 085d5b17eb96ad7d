"""From complete subjects to doubts about a volume, as a user types it, on small real files."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from agi_core.__main__ import main
from agi_core.data.fingerprint import fingerprints
from agi_core.data.scans import Scans, discover
from agi_core.known_range import NAME, KnownRange
from agi_core.run import error_model
from agi_core.run.own_weights import write_own_weights
from agi_core.run_models import RunModels
from agi_core.scenario import parse_scenario
from tests.support.finished_run import finished_run
from tests.support.small_data import write_ixi

CELL = parse_scenario("T1,T2:PD")
PARTS = {"train": 6, "validation": 3, "test": 2}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return write_ixi(tmp_path / "data", {"A": sum(PARTS.values())})


@pytest.fixture
def run_dir(tmp_path: Path, data_dir: Path) -> Path:
    """A run that knows which of the subjects trained, validated and tested."""
    finished_run(tmp_path / "run", prior="cubic")
    subjects = discover(Scans(data_dir, "ixi"), ("T1", "T2", "PD")).subjects
    names = iter(subject.id for subject in subjects)
    split = {part: [next(names) for _ in range(count)] for part, count in PARTS.items()}
    (tmp_path / "run" / "splits.json").write_text(json.dumps({"A": split}))
    (tmp_path / "run" / "fingerprints.json").write_text(json.dumps(fingerprints(subjects)))
    return tmp_path / "run"


@pytest.fixture
def calibrate(run_dir: Path, data_dir: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*more: str, data: Path = data_dir) -> int:
        place = ["--data", str(data), "--layout", "ixi", "--cache-dir", str(tmp_path / "cache")]
        return main(["calibrate", "--run", str(run_dir), *place, *more])

    return run


def sources(data_dir: Path, number: int) -> list[str]:
    paths = {m: sorted((data_dir / f"IXI-{m}").iterdir())[number] for m in ("T1", "T2")}
    return [text for m, path in paths.items() for text in ("--source", f"{m}={path}")]


@pytest.mark.parametrize("command", ["calibrate", "adapt", "synthesize"])
def test_what_a_run_says_of_repeatable_results_holds_for_its_commands(
    run_dir: Path, data_dir: Path, tmp_path: Path, command: str
) -> None:
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("deterministic: false", "deterministic: true"))
    scans = ["--data", str(data_dir), "--layout", "ixi", "--cache-dir", str(tmp_path / "cache")]
    out = ["--out", str(tmp_path / "own.safetensors")]
    of_command = {
        "calibrate": scans,
        "adapt": [*scans, *out],
        "synthesize": [*sources(data_dir, 0), "--out", str(tmp_path / "pd.nii.gz")],
    }
    try:
        assert main([command, "--run", str(run_dir), *of_command[command]]) == 0
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_from_subjects_to_a_map_a_verdict_and_coverage(
    run_dir: Path, data_dir: Path, tmp_path: Path, calibrate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    made, errors, command = tmp_path / "pd.nii.gz", tmp_path / "e.nii.gz", ["synthesize", "--run", str(run_dir)]
    plain = [*command, *sources(data_dir, -1), "--out", str(made)]
    assert main([*plain, "--strict"]) == 2
    assert "--strict needs the known range of T1,T2:PD" in capsys.readouterr().err
    assert main([*plain, "--uncertainty", str(errors)]) == 2
    assert "make it with python -m agi_core calibrate" in capsys.readouterr().err
    assert not made.exists()
    assert main(plain) == 0
    assert "warning: PD: not compared with the scans of training" in capsys.readouterr().err
    before = nibabel.load(made).get_fdata()

    assert calibrate() == 0
    printed = capsys.readouterr()
    assert "of 3 subjects; of new ones it covers 69% at least" in printed.out
    assert re.search(r"^A: \d+% covered by the interval of the others, \d+% to \d+% of 3 subjects$", printed.out, re.M)
    assert "known range: of 6 training subjects" in printed.out
    assert "without 2 test subjects of the run; " in printed.err

    assert main([*plain, "--uncertainty", str(errors), "--strict"]) == 0
    printed = capsys.readouterr()
    assert "its sources lie in the range of 6 training subjects" in printed.out
    assert "out of what the model knows" not in printed.err
    after, foretold = nibabel.load(made), nibabel.load(errors)
    np.testing.assert_allclose(after.get_fdata(), before, atol=2e-4)
    np.testing.assert_array_equal(foretold.affine, after.affine)
    assert (foretold.get_fdata() > 0).mean() > 0.5
    assert foretold.get_fdata().max() <= 1
    note = json.loads((tmp_path / "pd.json").read_text())
    assert note["OutOfKnownRange"] == []
    assert (
        foretold.header["descrip"].item().decode()
        == f"expected |error| e; 90% interval: +- {note['IntervalFactor']:.2f} e"
    )
    assert not after.header.extensions

    assert (
        main(
            [
                "evaluate",
                "--run",
                str(run_dir),
                "--data",
                str(data_dir),
                "--layout",
                "ixi",
                "--out",
                str(tmp_path / "o"),
            ]
        )
        == 0
    )
    figure = json.loads((tmp_path / "o" / "summary.json").read_text())["figures"]["coverage_head"]
    assert figure["subjects"] == 2
    assert 0.7 < figure["mean"] <= 1


def test_a_sites_own_layer_is_calibrated_by_the_name_of_the_site_and_the_common_one_stays(
    run_dir: Path, data_dir: Path, tmp_path: Path, calibrate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    heads = run_dir / "sites" / "HH" / "heads"
    write_own_weights(
        heads / "x.safetensors",
        {"head.bias": np.full(1, 0.9, dtype=np.float32)},
        network=RunModels.of(run_dir).network(CELL),
    )
    errors, head = tmp_path / "e.nii.gz", ["--head", "HH"]
    command = ["synthesize", "--run", str(run_dir), *sources(data_dir, -1), "--out", str(tmp_path / "pd.nii.gz")]
    assert calibrate() == calibrate(*head) == 0
    assert f"of a site's own weights, in {heads}\n" in capsys.readouterr().out
    made = {}
    for name, more in (("common", []), ("own", head)):
        assert main([*command, "--uncertainty", str(errors), *more]) == 0
        made[name] = nibabel.load(errors).get_fdata()
        layer = json.loads((tmp_path / "pd.json").read_text())["LastLayer"]
        assert layer == {"common": "common", "own": "own weights: HH"}[name]
    assert np.abs(made["own"] - made["common"]).max() > 0.01


def test_of_a_private_run_what_is_learnt_stays(
    run_dir: Path, data_dir: Path, tmp_path: Path, calibrate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("epsilon: null", "epsilon: 8.0"))
    command = ["synthesize", "--run", str(run_dir), *sources(data_dir, -1), "--out", str(tmp_path / "pd.nii.gz")]
    assert main(command) == 0
    assert "(calibrate makes it, without noise: it must stay at this hospital)" in capsys.readouterr().err
    assert calibrate() == 0
    said = capsys.readouterr().err
    assert "the run is private, and what is learnt here comes from patients without noise: it stays in" in said
    assert "must not be handed on" in said


def test_a_follow_up_of_a_training_subject_tells_no_errors(
    data_dir: Path, calibrate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for modality in ("T1", "T2", "PD"):
        path = sorted((data_dir / f"IXI-{modality}").iterdir())[0]
        scan = nibabel.load(path)
        later = path.with_name(path.name.replace("-A-1", "-A-2"))
        assert not later.exists()
        nibabel.save(nibabel.Nifti1Image(np.asarray(scan.dataobj) + np.int16(1), scan.affine), later)
    assert calibrate() == 0
    assert "of 3 subjects; of new ones" in capsys.readouterr().out


def test_files_of_training_subjects_that_were_written_anew_are_named(
    run_dir: Path, data_dir: Path, tmp_path: Path, calibrate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """They cannot be told from others of the same name."""
    for path in [*data_dir.rglob("IXI100-*"), *data_dir.rglob("IXI107-*")]:
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    assert calibrate() == 0
    said = capsys.readouterr()
    assert "named like subjects that trained the model, but other files, and so calibrated on: IXI100; of" in said.err
    place = ["--data", str(data_dir), "--layout", "ixi", "--out", str(tmp_path / "scores")]
    assert main(["evaluate", "--run", str(run_dir), *place]) == 0
    told = "named like subjects that trained or validated the model, but other files, and so scored: IXI100, IXI107; of"
    assert told in capsys.readouterr().out


def test_out_of_range_is_said_noted_and_exit_code_3(
    run_dir: Path, data_dir: Path, tmp_path: Path, calibrate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    calibrate()
    capsys.readouterr()
    path = sorted((data_dir / "IXI-T1").iterdir())[-1]
    scan = nibabel.load(path)
    values = np.asarray(scan.dataobj).copy()
    nibabel.save(nibabel.Nifti1Image(700 - values, scan.affine), path)
    command = ["synthesize", "--run", str(run_dir), *sources(data_dir, -1), "--out", str(tmp_path / "pd.nii")]
    assert main(command) == 0
    assert main([*command, "--strict"]) == 3
    said = capsys.readouterr()
    assert "warning: PD: out of what the model knows: intensities of T1: percentile" in said.err
    assert "synthetic PD in" in said.out
    made = nibabel.load(tmp_path / "pd.nii")
    assert made.header["descrip"].item().startswith(b"OUT OF KNOWN RANGE: synthetic PD; 0..1 = p0.5")
    (extension,) = made.header.extensions
    assert extension.get_code() == 6
    assert b"out of known range: intensities of T1" in extension.get_content()
    reasons = json.loads((tmp_path / "pd.json").read_text())["OutOfKnownRange"]
    assert [reason for reason in reasons if reason.startswith("intensities of T1")]


def test_a_hospitals_own_subjects_leave_the_range_of_training(
    run_dir: Path, tmp_path: Path, calibrate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    calibrate()
    trained = KnownRange.read(run_dir / NAME)
    first = (run_dir / error_model.NAME).read_bytes()
    hospital = write_ixi(tmp_path / "hospital", {"New": 6})
    for path in hospital.rglob("*.nii.gz"):  # other people than those of the run
        scan = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(scan.dataobj) + np.int16(1), scan.affine), path)
    assert calibrate(data=hospital) == 0
    assert "known range: as before, of 6 training subjects" in capsys.readouterr().out
    assert KnownRange.read(run_dir / NAME) == trained
    assert (run_dir / error_model.NAME).read_bytes() != first

    (run_dir / NAME).unlink()
    assert calibrate(data=hospital) == 0
    assert "known range: of 6 calibration subjects" in capsys.readouterr().out

    for path in hospital.rglob("IXI10[4-9]*"):
        path.unlink()
    assert calibrate(data=hospital) == 0
    printed = capsys.readouterr()
    assert "of 4 subjects; of new ones it covers" in printed.out
    assert "known range: as before, of 6 calibration subjects" in printed.out
    assert "no known range" not in printed.err


def test_single_slices_calibrate_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their errors can be told, and the tilt of their heads cannot: neither is written."""
    finished_run(tmp_path / "run")
    hospital = write_ixi(tmp_path / "hospital", {"A": 6})
    for path in hospital.rglob("*.nii.gz"):
        scan = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(scan.dataobj)[:, :, 4:5], scan.affine), path)
    place = ["--data", str(hospital), "--layout", "ixi", "--cache-dir", str(tmp_path / "cache")]
    assert main(["calibrate", "--run", str(tmp_path / "run"), *place]) == 2
    assert "6 of 6 subjects have no pose of the head: tilt in the sagittal plane" in capsys.readouterr().err
    assert not (tmp_path / "run" / NAME).exists()
    assert not (tmp_path / "run" / error_model.NAME).exists()


@pytest.mark.parametrize(("train", "code"), [(2, 0), (1, 2)])
def test_a_range_of_few_training_subjects(
    run_dir: Path,
    data_dir: Path,
    tmp_path: Path,
    calibrate: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    train: int,
    code: int,
) -> None:
    """With those that calibrate they are enough, or whoever asks for --strict is told how many it takes."""
    (site,) = json.loads((run_dir / "splits.json").read_text()).values()
    kept = {
        "train": site["train"][:train],
        "validation": site["validation"],
        "test": [*site["train"][train:], *site["test"]],
    }
    (run_dir / "splits.json").write_text(json.dumps({"A": kept}))
    assert calibrate() == 0
    printed = capsys.readouterr()
    assert ("known range: of 5 calibration subjects" in printed.out) == (code == 0)
    assert ("no known range: it takes 5 subjects, and there are 4; give --data with more" in printed.err) == bool(code)
    command = ["synthesize", "--run", str(run_dir), *sources(data_dir, 0), "--out", str(tmp_path / "pd.nii")]
    assert main([*command, "--strict"]) == code
    assert ("calibrate --run" in (said := capsys.readouterr().err)) == bool(code)
    assert ("--data DIR, with 5 complete subjects or more" in said) == bool(code)


def test_subjects_who_had_no_part_in_the_run_are_counted(
    run_dir: Path, calibrate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """As those of a hospital that does not train the cell of an any-to-any run, in that run's own folder."""
    assert calibrate() == 0
    assert "had no part" not in capsys.readouterr().err
    (site,) = json.loads((run_dir / "splits.json").read_text()).values()
    (run_dir / "splits.json").write_text(json.dumps({"A": site | {"validation": site["validation"][:2]}}))
    assert calibrate() == 0
    printed = capsys.readouterr()
    assert "of 3 subjects; " in printed.out
    assert "errors are told by 1 subject who had no part in this model's run, too" in printed.err


def test_too_few_subjects(tmp_path: Path, calibrate: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(data=write_ixi(tmp_path / "one", {"B": 1})) == 2
    assert "0 complete subjects beside the 1 that trained" in capsys.readouterr().err
