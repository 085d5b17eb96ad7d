"""The benchmark of cells: its dealing, its averaging, and all of it at toy size, in two pieces."""

import json
from pathlib import Path

import pytest
import torch

from agi_core.cells import parse_vocabulary
from agi_core.config.load import load_config
from agi_core.data.datasets import Batch
from agi_core.data.scans import Scans, Subject, discover
from agi_core.models.model_config import ModelConfig
from agi_core.scenario import parse_scenario
from benchmarks.cells import main
from benchmarks.cells_federation import Member, federate
from benchmarks.cells_network import AnyToAny, CellOf
from benchmarks.cells_sites import deal
from tests.support.small_data import write_ixi

VOCABULARY = parse_vocabulary("T1,T2,PD:any")
CONFIG = ModelConfig(conv="plain", widths=(4, 8), stem=2)


def test_subjects_are_dealt_once_and_the_few_first() -> None:
    subjects = [Subject(f"s{n}", "Guys" if n < 12 else "HH", ()) for n in range(20)]
    for by in ("hospital", "random"):
        sites = deal(subjects, "T1,T2;T1,PD;T1,T2,PD*4", by=by, seed=0)
        ids = [subject for site in sites for subject in (*site.train, *site.validation, *site.test)]
        assert sorted(ids) == sorted(subject.id for subject in subjects)
        assert len(sites[2].train) == 2
        assert all(site.test and site.validation for site in sites)


def test_a_share_of_the_subjects_lack_a_modality_and_train_what_they_can() -> None:
    subjects = [Subject(f"s{n}", "Guys" if n < 30 else "HH", ()) for n in range(50)]
    sites = deal(subjects, "T1,T2,PD;T1,T2", by="hospital", seed=0, missing=0.125)
    assert [len(site.lacks) for site in sites] == [3, 2]  # of 24 and 16 who train or validate
    for site in sites:
        assert {*site.lacks} <= {*site.train, *site.validation}
        assert {*site.lacks.values()} <= site.modalities
        cell = parse_scenario("T1:T2")
        without = {subject for subject, modality in site.lacks.items() if modality in cell.modalities}
        assert {*site.training(cell)} == {*site.train} - without
        assert {*site.validating(cell)} == {*site.validation} - without
    assert not sites[1].trains(parse_scenario("T1:PD"))


@pytest.mark.slow  # two rounds of training
def test_a_weight_is_averaged_over_those_who_train_it(tmp_path: Path) -> None:
    """T1's stem has two holders of 1 and 3 subjects, PD's head one, T2's head none."""
    network = AnyToAny(VOCABULARY, CONFIG, stems=True, priors=None, seed=0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    task = load_config(None, overrides={}, assignments=["scenario=T1:PD", "rounds=1"]).task
    alone = {}
    members = []
    for name, cell, subjects in (("A", parse_scenario("T1:PD"), 1), ("B", parse_scenario("T1,PD:T2"), 3)):

        def draw(generator: torch.Generator, batch_size: int, cell: object = cell) -> Batch:
            network.cell = cell  # type: ignore[assignment]
            images = torch.rand((batch_size, 4, 16, 16), generator=generator)
            return Batch(torch.cat([images[:, : len(network.cell.sources)], images[:, 3:]], dim=1))

        members.append(Member(name, draw, steps=2, subjects=subjects, cells=frozenset({cell})))
        network.load_state_dict(before)
        federate(network, members[-1:], task=task, path=tmp_path / name)
        alone[name] = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(before)
    federate(network, members, task=task, path=tmp_path / "both", per_key=True)
    after = network.state_dict()
    stem, head = "stems.T1.0.weight", "heads.PD.weight"
    torch.testing.assert_close(after[stem], alone["A"][stem] / 4 + alone["B"][stem] * 3 / 4)
    torch.testing.assert_close(after[head], alone["A"][head], rtol=0, atol=0)
    torch.testing.assert_close(after["heads.T1.weight"], before["heads.T1.weight"], rtol=0, atol=0)
    assert not torch.equal(after[head], before[head])


def test_what_is_absent_does_not_reach_the_trunk() -> None:
    """The stem of an absent modality has no part in a prediction, whatever it would put out."""
    network = AnyToAny(VOCABULARY, CONFIG, stems=True, priors=None, seed=0)
    predictor, sources = CellOf(network, parse_scenario("T1:PD")), torch.rand(1, 1, 17, 15)
    before = predictor.predict(sources)
    assert before.shape == (1, 1, 17, 15)
    for parameter in network.stems["T2"].parameters():
        parameter.data += 1
    assert torch.equal(predictor.predict(sources), before)


@pytest.mark.slow  # all variants are trained
def test_all_of_it_at_toy_size_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variants = ["trunk", "best single"]
    data = write_ixi(tmp_path / "data", {"A": 3, "B": 3, "C": 3})
    command = ["--data", str(data), "--out", str(tmp_path / "out"), "--steps", "2", "--rounds", "2", "--batch", "1"]
    command += ["--by", "hospital", "--variants", ",".join(variants)]
    command += ["model.widths=[4,8]", "grid.crop=[16,16]", "model.stem=2"]
    assert main(command) == 0
    first = capsys.readouterr().out
    table = first.split("intervals are over seeds.\n\n")[1].split("\n\n")[0].splitlines()
    assert table[0] == f"| cell | {' | '.join(variants)} |"
    assert [row.split(" | ")[0] for row in table[2:5]] == ["| T2,PD:T1 *", "| T2:T1", "| PD:T1"]
    (one,) = (tmp_path / "out").glob("*/seed-0/trunk.json")
    one.unlink()
    assert "sites that lack the target" in first
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/seed-0/*.safetensors")}
    assert main(command) == 0
    assert capsys.readouterr().out == first
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/seed-0/*.safetensors")}

    assert main([*command, "--last-layer", "solved", "--variants", "best single,bound"]) == 0
    assert capsys.readouterr().out != first
    assert written == {path: path.stat().st_mtime_ns for path in written}  # what was trained is not trained again
    assert sum(path.with_suffix(".json").is_file() for path in written) == 6  # experts; the trunk has no such layer
    trained_scores, solved_scores = (
        json.loads(next((tmp_path / "out").glob(f"*/seed-0/singles{ending}.json")).read_bytes())
        for ending in ("", " solved")
    )
    assert trained_scores.keys() == solved_scores.keys()
    assert trained_scores != solved_scores


@pytest.mark.slow  # a variant is trained
def test_scans_of_another_folder_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_ixi(tmp_path / "data", {"A": 3, "B": 3, "C": 3})
    tested = write_ixi(tmp_path / "tested", {"A": 9, "Z": 2})
    command = ["--data", str(data), "--tested", str(tested), "--out", str(tmp_path / "out"), "--by", "hospital"]
    with pytest.raises(SystemExit, match="those who test must not train"):
        main(command)
    for scan in tested.glob("IXI-*/*-A-*"):
        scan.unlink()
    assert main([*command, "--variants", "cubic", "model.widths=[4,8]", "grid.crop=[16,16]"]) == 0
    (scores,) = (tmp_path / "out").glob("*/seed-0/cubic.json")
    expected = {subject.id for subject in discover(Scans(tested, "ixi"), VOCABULARY.modalities).subjects}
    assert all({*by_subject} == expected for by_subject in json.loads(scores.read_bytes()).values())
    assert "sites that lack the target" not in capsys.readouterr().out
