"""`synthesize` with a run over a vocabulary: any subset to any target, blends, and what a user can get wrong."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from agi_core import known_range
from agi_core.__main__ import main
from agi_core.cells import folder_of
from agi_core.conformal import EDGES
from agi_core.data.nifti import WRITTEN_STEP, FloatArray, read_descrip, read_volume
from agi_core.errors import RunError
from agi_core.known_range import KnownRange, names_of
from agi_core.run.error_model import NAME as ERROR_MODEL
from agi_core.run.error_model import write_error_model
from agi_core.run.own_weights import style_path, write_own_weights
from agi_core.run.study_summary import BLEND, NOBODY, CellResult, StudySummary, write_study_summary
from agi_core.run.study_summary import TRAINED as TRAINED_CELL
from agi_core.run_models import RunModels
from agi_core.scenario import parse_scenario
from agi_core.uncertainty import ErrorModel
from tests.support.finished_run import finished_run
from tests.support.small_data import write_head
from tests.support.vocabulary_run import BLENDED, TRAINED, vocabulary_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary") / "run"
    vocabulary_run(folder)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scans")
    paths = {modality: folder / f"{modality}.nii.gz" for modality in ("T1", "T2", "PD")}
    for number, path in enumerate(paths.values()):
        write_head(path, seed=1, contrast=1 + 0.4 * number)
    return paths


def command(run_dir: Path, out: Path, scans: dict[str, Path], *sources: str) -> list[str]:
    given = [f"--source={modality}={scans[modality]}" for modality in sources]
    return ["synthesize", "--run", str(run_dir), *given, "--out", str(out)]


def test_a_cell_that_nobody_trained_is_the_blend(
    run_dir: Path, scans: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {}
    for sources in (("T2", "T1"), ("T1",), ("T2",)):
        path = tmp_path / f"{'-'.join(sources)}.nii.gz"
        assert main([*command(run_dir, path, scans, *sources), "--target", "PD"]) == 0
        made[sources] = read_volume(path).data
    inside = (made["T1",] > 0) & (made["T1",] < 1) & (made["T2",] > 0) & (made["T2",] < 1)  # nothing was clipped
    expected = (0.25 * made["T1",] + 0.75 * made["T2",])[inside]
    assert expected.std() > 0.01
    np.testing.assert_allclose(made["T2", "T1"][inside], expected, atol=2 * WRITTEN_STEP)
    assert "from T1, T2: a blend, 25% from T1, 75% from T2\n" in capsys.readouterr().out
    described = nibabel.load(tmp_path / "T2-T1.nii.gz").header["descrip"].item().decode()
    assert described.endswith("; 25% from T1, 75% from T2")


def test_without_a_target_all_that_is_missing_is_made(
    run_dir: Path, scans: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(run_dir, tmp_path / "all", scans, "T2")) == 0
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["PD.nii.gz", "T1.nii.gz"]
    assert str(tmp_path / "all" / "PD.nii.gz") in capsys.readouterr().out
    assert main(command(run_dir, tmp_path / "one", scans, "T1")) == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["PD.nii.gz"]
    assert "no T2: no site of the run could train T2 from T1, and it is no blend" in capsys.readouterr().out
    assert main([*command(run_dir, tmp_path / "t1.nii.gz", scans, "T2"), "--target", "T1"]) == 0
    alone, beside = (read_volume(path).data for path in (tmp_path / "t1.nii.gz", tmp_path / "all" / "T1.nii.gz"))
    np.testing.assert_array_equal(alone, beside)


@pytest.mark.parametrize(
    ("lost", "sources", "target", "cause"),
    [
        (["cells/T2-to-T1"], ["T2"], "T1", "no model in cells/T2-to-T1"),
        (["blends.json", "cells/T1-to-PD"], ["T1"], "PD", "no model in cells/T1-to-PD"),
        (["blends.json"], ["T1", "T2"], "PD", "no blends.json"),
    ],
)
def test_a_copy_that_lacks_something_says_what(
    tmp_path: Path,
    scans: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    lost: list[str],
    sources: list[str],
    target: str,
    cause: str,
) -> None:
    copy = tmp_path / "run"
    vocabulary_run(copy)
    cells = {**dict.fromkeys(TRAINED, CellResult(how=TRAINED_CELL)), **dict.fromkeys(BLENDED, CellResult(how=BLEND))}
    cells["T1:T2"] = CellResult(how=NOBODY)
    write_study_summary(copy, StudySummary(scenario="T1,T2,PD:any", cells=cells, offers={}))
    for name in lost:
        (copy / name).rename(tmp_path / Path(name).name)
    assert main([*command(copy, tmp_path / "out.nii.gz", scans, *sources), "--target", target]) == 2
    assert f"{copy}: there is {cause}, which the run's summary names; copy the whole folder" in capsys.readouterr().err
    assert main([*command(copy, tmp_path / "out.nii.gz", scans, "T1"), "--target", "T2"]) == 2
    assert "no site of the run could train T2 from T1, and it is no blend" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sources", "options", "cause"),
    [
        (["T1", "T1"], ["--target", "PD"], "--source T1 is given 2 times"),
        (["T1", "T2"], ["--target", "FLAIR"], "is about T1, T2, PD, and 'FLAIR' is none of them"),
        (["T2"], ["--target", ""], "is about T1, T2, PD, and '' is none of them"),
        (["T1", "T2"], ["--target", "T2"], "T2 is to be made, and is among the sources"),
        (["T1", "PD"], ["--target", "T2"], "could train T2 from T1,PD, and it is no blend; no subset"),
        (["PD"], ["--target", "T1"], "could train T1 from PD, and it is no blend; it can be made from T2\n"),
        (["T1", "T2", "PD"], [], "nothing is missing"),
        (["T1", "T2"], ["--target", "PD", "--grid", "PD"], "the grid of PD was asked for"),
        ([], ["--target", "PD"], "give --source MODALITY=FILE for each"),
        (["T1", "T2"], ["--layout", "brats"], "--layout of --source is bids"),
        (["T2"], ["--uncertainty", "e.nii"], "name what to make with --target"),
        (["T2"], ["--layout", "bids", "--uncertainty", "e.nii"], "name what to make with --target"),
    ],
)
def test_what_a_user_gets_wrong_is_said_and_nothing_is_written(
    run_dir: Path,
    scans: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sources: list[str],
    options: list[str],
    cause: str,
) -> None:
    assert main([*command(run_dir, tmp_path / "out.nii.gz", scans, *sources), *options]) == 2
    message = capsys.readouterr().err
    assert cause in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_one_file_for_two_sources_is_refused(
    run_dir: Path, scans: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = scans | {"T2": scans["T1"]}
    assert main([*command(run_dir, tmp_path / "out.nii.gz", same, "T1", "T2"), "--target", "PD"]) == 2
    assert "are the same image" in capsys.readouterr().err
    assert main(command(run_dir, tmp_path / "out", same, "T1", "T2")) == 2
    assert main(command(run_dir, tmp_path / "out.nii.gz", scans, "T2")) == 2
    assert "so --out is a folder" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_blend_is_doubted_by_its_experts(
    run_dir: Path, scans: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The expected error is the weighted mean of theirs, and the sources are compared with the ranges of both."""
    shutil.copytree(run_dir, tmp_path / "run")
    blend = [*command(tmp_path / "run", tmp_path / "pd.nii", scans, "T1", "T2"), "--target", "PD"]
    assert main([*blend, "--strict"]) == 2
    assert "--strict needs the known range of T1:PD and T2:PD, and there is none; make it" in capsys.readouterr().err
    assert main([*blend, "--uncertainty", str(tmp_path / "e.nii")]) == 2
    assert "T1-to-PD" in capsys.readouterr().err
    for number, cell in enumerate(("T1:PD", "T2:PD")):
        folder = folder_of(tmp_path / "run", parse_scenario(cell))
        network, counts = RunModels.of(tmp_path / "run").network(parse_scenario(cell)), np.zeros(66, dtype=np.int64)
        counts[40 + number] = 1
        layer = np.zeros(len(network.readout))
        layer[0] = 0.1 + 0.2 * number
        write_error_model(folder / ERROR_MODEL, ErrorModel(layer, counts, 8 + number, 3 - number), network=network)
        means = dict.fromkeys(names_of(network), 0.5) | {"head: volume, litres": (0.5, 99.0)[number]}
        spreads = dict.fromkeys(means, 1e4) | {"head: volume, litres": (1e4, 1.0)[number]}
        KnownRange("training", 9, means, spreads).write(folder / known_range.NAME)
    assert main([*blend, "--strict", "--uncertainty", str(tmp_path / "e.nii")]) == 3
    expected = nibabel.load(tmp_path / "e.nii").get_fdata()
    np.testing.assert_allclose(expected[expected > 0], 0.25 * 0.1 + 0.75 * 0.3, rtol=1e-3)
    assert (expected > 0).mean() > 0.3
    said = capsys.readouterr()
    assert said.err.count("out of what the model knows: head: volume, litres is") == 1
    assert "was expected for T2:PD\n" in said.err
    assert "out of the range of 9 training subjects for T1:PD and 9 training subjects for T2:PD" in said.out
    note = json.loads((tmp_path / "pd.json").read_text())
    assert note["IntervalFactor"] == pytest.approx(EDGES[40] * (EDGES[41] / EDGES[40]) ** 0.92)
    assert note["IntervalCoverageGuaranteed"] == pytest.approx(1 - (1 - 0.92 * 8 / 9) - (1 - 0.92 * 9 / 10))
    assert (note["CalibrationSubjects"], note["CalibrationSites"]) == (8, 2)


def test_own_weights_of_a_cell_serve_its_blends(run_dir: Path, scans: dict[str, Path], tmp_path: Path) -> None:
    """Of a site's folder with weights for several models, those that belong to the cells asked for are taken."""
    other = finished_run(tmp_path / "other", widths=(8, 8))
    expert = RunModels.of(run_dir)
    (cell,) = expert.asked(["T2"], "PD")
    network = expert.networks[cell]()
    for name, one in (("other", other), ("own", network)):
        own = {"head.bias": np.full(1, 0.9, dtype=np.float32)}
        write_own_weights(tmp_path / "heads" / f"{name}.safetensors", own, network=one)
    made = {}
    for name, head in (("common", []), ("own", ["--head", str(tmp_path / "heads")])):
        path = tmp_path / f"{name}.nii.gz"
        assert main([*command(run_dir, path, scans, "T1", "T2"), "--target", "PD", *head]) == 0
        made[name] = read_volume(path).data
    assert (made["own"] - made["common"]).max() > 0.1
    with pytest.raises(RunError, match="belongs to another model"):
        expert.load_own(tmp_path / "heads" / "other.safetensors", [cell])


def test_a_sites_own_weights_are_found_by_its_name_its_state_folder_and_their_place(
    scans: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, out = tmp_path / "run", tmp_path / "pd.nii.gz"
    network, heads = finished_run(run_dir), run_dir / "sites" / "xn--Gy-xka" / "heads"
    own, file = {"head.bias": np.full(1, 0.9, dtype=np.float32)}, heads / "x.safetensors"
    write_own_weights(file, own, network=network)
    of_adapt = Path(shutil.copy(file, tmp_path / "own.safetensors"))

    def made(*head: str) -> FloatArray:
        assert main([*command(run_dir, out, scans, "T1", "T2"), *head]) == 0
        return read_volume(out).data

    common = made()
    for head, read in (("Güy", heads), (heads.parent, heads), (heads, heads), (file, file), (of_adapt, of_adapt)):
        capsys.readouterr()
        assert (made("--head", str(head)) - common).max() > 0.1
        assert capsys.readouterr().out.startswith(f"with a site's own weights, in {read}\n")
        assert read_descrip(out).endswith(f"; own weights: {'own' if head == of_adapt else 'xn--Gy-xka'}")
    assert main([*command(run_dir, tmp_path / "none.nii", scans, "T1", "T2"), "--head", "Guy"]) == 2
    assert "Guy has no weights of a site's own" in capsys.readouterr().err


def test_the_sites_of_a_whole_run_are_found_from_the_folder_of_a_cell(scans: dict[str, Path], tmp_path: Path) -> None:
    cell_dir, out = tmp_path / "run" / "cells" / "T1,T2-to-PD", tmp_path / "pd.nii.gz"
    own = {"head.bias": np.full(1, 0.9, dtype=np.float32)}
    heads = tmp_path / "run" / "sites" / "HH" / "heads"
    write_own_weights(heads / "x.safetensors", own, network=finished_run(cell_dir))

    def made(*whose: str) -> FloatArray:
        assert main([*command(cell_dir, out, scans, "T1", "T2"), *whose]) == 0
        return read_volume(out).data

    np.testing.assert_array_equal(made("--head", "HH"), made("--style", "HH"))
    assert (made("--head", "HH") - made()).max() > 0.1


def test_a_hospital_without_a_target_borrows_the_weights_of_a_training_site(
    scans: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    network, other = finished_run(run_dir), finished_run(tmp_path / "other", widths=(8, 8))
    own = {"head.bias": np.full(1, 0.9, dtype=np.float32)}
    for site, one in (("HH", network), ("xn--Gy-xka", network), ("B", other)):
        write_own_weights(run_dir / "sites" / site / "heads" / "x.safetensors", own, network=one)
    made = {}
    for name in ("common", "HH", "Güy", "xn--Gy-xka"):
        style = ["--style", name] if name != "common" else []
        path = tmp_path / f"{name}.nii.gz"
        assert main([*command(run_dir, path, scans, "T1", "T2"), *style]) == 0
        said = f"in the style of {name}: " if style else "; styles to be had: HH, xn--Gy-xka\n"
        assert said in capsys.readouterr().out
        made[name] = read_volume(path).data
    assert (made["HH"] - made["common"]).max() > 0.1
    np.testing.assert_array_equal(made["HH"], made["Güy"])
    np.testing.assert_array_equal(made["Güy"], made["xn--Gy-xka"])

    def refused(site: str) -> str:
        out = tmp_path / "none.nii.gz"
        assert main([*command(run_dir, out, scans, "T1", "T2"), "--style", site]) == 2
        assert not out.exists()
        return capsys.readouterr().err

    assert "has no weights of ../other's own; take one of HH, xn--Gy-xka, or leave --style out" in refused("../other")
    assert "no weights of B's own for T1,T2:PD (" in (said := refused("B"))
    assert "x.safetensors belongs to another model" in said
    both = [*command(run_dir, tmp_path / "o.nii", scans, "T1", "T2"), "--style", "HH", "--uncertainty", "e.nii"]
    assert main(both) == 2
    assert "errors are known of the common last layer alone: leave --style or" in capsys.readouterr().err
    config = run_dir / "config.yaml"
    before = config.read_text()
    config.write_text(before.replace("epsilon: null", "epsilon: 8.0"))
    assert "is private, and a site's own weights have no noise" in refused("HH")
    assert main(command(run_dir, tmp_path / "private.nii.gz", scans, "T1", "T2")) == 0
    assert capsys.readouterr().out.startswith("common last layer; --head takes a site's own\n")
    config.write_text(before)
    shutil.rmtree(run_dir / "sites")
    assert "there is none: real sites share theirs by policy.share_last_layer" in refused("HH")


def test_what_real_sites_share_is_found_cell_by_cell(
    scans: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shares its last layer of T1:PD and of T2:PD, B of T1:PD alone; T2:T1 has none."""
    run_dir = tmp_path / "run"
    networks, other = vocabulary_run(run_dir), folder_of(run_dir, parse_scenario("T2:PD"))
    shutil.rmtree(other)  # it has the weights of T1:PD
    networks["T2:PD"] = finished_run(other, scenario="T2:PD", widths=(8, 8))
    own = {"head.bias": np.full(1, 0.9, dtype=np.float32)}
    for site, cell in (("A", "T1:PD"), ("A", "T2:PD"), ("B", "T1:PD")):
        path = style_path(folder_of(run_dir, parse_scenario(cell)), site)
        write_own_weights(path, own, network=networks[cell])

    def made(name: str, *options: str) -> FloatArray:
        path = tmp_path / f"{name}.nii.gz"
        assert main([*command(run_dir, path, scans, *options[:2]), *options[2:]]) == 0
        return read_volume(path).data

    common = made("common", "T1", "T2", "--target", "PD")
    assert "common last layer; --head takes a site's own; styles to be had: A, B\n" in capsys.readouterr().out
    of_both, of_one = (made(site, "T1", "T2", "--target", "PD", "--style", site) for site in "AB")
    whose = capsys.readouterr().out
    assert "in the style of A: with what it has solved for its own scans\n" in whose
    assert "in the style of B: with what it has solved for its own scans; T2:PD with the common last layer\n" in whose
    header = nibabel.load(tmp_path / "B.nii.gz").header
    assert b"style of B" in bytes(header["descrip"])
    assert main([*command(run_dir, tmp_path / "all", scans, "T2"), "--style", "A"]) == 0
    assert "style of A: with what it has solved for its own scans; T2:T1 with the common" in capsys.readouterr().out
    described = [read_descrip(tmp_path / "all" / f"{target}.nii.gz") for target in ("PD", "T1")]
    assert ["style of A" in text for text in described] == [True, False]
    assert (of_both - of_one).max() > 0.1
    assert (of_one - common).max() > 0.05
    path = tmp_path / "t1.nii.gz"
    assert main([*command(run_dir, path, scans, "T2"), "--target", "T1"]) == 0
    assert "common last layer; --head takes a site's own\n" in capsys.readouterr().out
    assert main([*command(run_dir, path, scans, "T2"), "--target", "PD", "--style", "B"]) == 2
    assert "has no weights of B's own; take one of A, or leave --style out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("blends", "cause"),
    [
        ("{", "damaged"),
        ('{"T1,T2:PD": 1}', "damaged"),
        ('{"T1,T2:PD": {"T1:PD": 0.5, "T2:PD": 0.2}}', "no parts of 1"),
        ('{"T1,PD:T2": {"T1:T2": 1}}', "whose run is not there"),
    ],
)
def test_damaged_blends_are_named(tmp_path: Path, blends: str, cause: str) -> None:
    vocabulary_run(tmp_path / "run")
    (tmp_path / "run" / "blends.json").write_text(blends)
    with pytest.raises(RunError, match=rf"blends\.json.*{cause}"):
        RunModels.of(tmp_path / "run")


@pytest.mark.parametrize(
    "words",
    [
        ["export", "--out", "m.zip"],
        ["evaluate", "--data", "d"],
        ["evaluate", "--data", "d", "--target", "PD"],
        ["adapt", "--data", "d", "--out", "h"],
    ],
)
def test_commands_of_one_model_name_the_cells(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--run", str(run_dir)]) == 2
    message = capsys.readouterr().err
    assert "holds a model for each cell of T1,T2,PD:any; name the folder of one cell" in message
    assert "T1-to-PD, T2-to-PD, T2-to-T1" in message
    assert not [*tmp_path.iterdir()]


def test_the_blends_of_the_folder_are_those_of_its_file(run_dir: Path) -> None:
    models = RunModels.of(run_dir)
    read = {str(cell): {str(one): weight for one, weight in some.items()} for cell, some in models.blends.items()}
    assert read == BLENDED == json.loads((run_dir / "blends.json").read_text())
