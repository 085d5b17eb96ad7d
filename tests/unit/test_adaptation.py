"""A last layer for a hospital that took no part, on small real files."""

import dataclasses
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from agi_core.adaptation import Adaptation, adapt
from agi_core.config.load import load_config
from agi_core.config.schema import Task
from agi_core.data.fingerprint import fingerprints
from agi_core.data.scans import Scans, discover
from agi_core.errors import DataError
from agi_core.network import Network
from tests.support.small_data import SMALL, write_ixi


@pytest.fixture
def task() -> Task:
    return load_config(None, overrides={}, assignments=[*SMALL, "model.prior=cubic"]).task


@pytest.fixture
def hospital(tmp_path: Path) -> Scans:
    return Scans(write_ixi(tmp_path / "hospital", {"New": 3}), "ixi")


def test_a_subject_that_is_left_out_gains_and_the_network_is_left_as_it_was(
    task: Task, hospital: Scans, tmp_path: Path
) -> None:
    network = Network(task)  # predicts 0
    adaptation = adapt(network, hospital, task=task, run_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert not network.readout.any()
    assert adaptation.scored in adaptation.subjects
    assert len(adaptation.subjects) == 3
    assert adaptation.own_db > adaptation.common_db + 3
    assert sorted(adaptation.gains_db) == sorted(adaptation.subjects)
    assert min(adaptation.gains_db.values()) > 3
    assert 0.9 < adaptation.part < 1
    assert {name.split(".")[0] for name in adaptation.own} == {"head", "prior"}

    alone = dataclasses.replace(hospital, exclude=adaptation.subjects[1:])
    single = adapt(network, alone, task=task, run_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert single.subjects == (single.scored,)
    assert not single.gains_db
    assert "excluded by data.exclude x2" in single.found
    assert not np.array_equal(single.own["head.weight"], adaptation.own["head.weight"])


def test_it_starts_from_the_common_layer_that_fits_these_subjects_better(
    task: Task, hospital: Scans, tmp_path: Path
) -> None:
    """The delivered one predicts 0; the one that training ended with is that of this hospital already."""
    network, trained = Network(task), Network(task)
    first = adapt(network, hospital, task=task, run_dir=tmp_path, cache_dir=tmp_path / "cache")
    trained.load({**trained.weights, **first.own})
    before = trained.readout
    again = adapt(network, hospital, task=task, run_dir=tmp_path, cache_dir=tmp_path / "cache", trained=trained)
    assert again.part < 0.1 < first.part
    assert again.common_db == first.common_db
    assert again.own_db >= first.own_db - 0.05
    np.testing.assert_array_equal(trained.readout, before)
    assert not network.readout.any()


def test_who_trained_the_model_is_left_out_and_several_hospitals_are_named(task: Task, tmp_path: Path) -> None:
    scans = Scans(write_ixi(tmp_path / "folder", {"Guys": 2, "HH": 2, "New": 4}), "ixi")
    subjects = discover(scans, ("T1", "T2", "PD")).subjects
    (tmp_path / "fingerprints.json").write_text(json.dumps(fingerprints(subjects)))

    def adapted(**split: dict[str, list[str]]) -> Adaptation:
        (tmp_path / "splits.json").write_text(json.dumps(split))
        return adapt(Network(task), scans, task=task, run_dir=tmp_path, cache_dir=tmp_path / "cache")

    guys, hh = {"train": ["IXI100", "IXI101"]}, {"train": ["IXI102"], "validation": ["IXI103"]}
    assert adapted(Guys=guys, HH=hh).notes == [
        "used in training or validation, and so left out: IXI100, IXI101, IXI102, IXI103"
    ]
    most = adapted(Guys=guys, HH=hh, New={"train": ["IXI104", "IXI105"]})
    assert most.notes[-1].endswith("left out: IXI100, IXI101, IXI102, IXI103, IXI104 and others")
    several = adapted(Guys=guys, HH={"train": ["IXI102"], "test": ["IXI103"]})
    assert sorted(several.subjects) == ["IXI103", "IXI104", "IXI105", "IXI106", "IXI107"]
    assert several.notes == [
        "a last layer is one hospital's, and these are of 2: HH 1, New 4; give a folder of one",
        "used in training or validation, and so left out: IXI100, IXI101, IXI102",
    ]
    with pytest.raises(DataError, match=r"every subject of .* trained the model of"):
        adapted(Guys={"train": [subject.id for subject in subjects]})


def test_what_makes_a_subject_worse_is_refused(task: Task, hospital: Scans, tmp_path: Path) -> None:
    """The model fits the very subject that is scored. The others' targets are upside down in contrast."""
    network = Network(task)
    adaptation = adapt(network, hospital, task=task, run_dir=tmp_path, cache_dir=tmp_path / "cache")
    others = [subject for subject in adaptation.subjects if subject != adaptation.scored]
    alone = dataclasses.replace(hospital, exclude=(*others,))
    best = adapt(network, alone, task=task, run_dir=tmp_path, cache_dir=tmp_path / "cache")
    network.load({**network.weights, **best.own})
    solved = network.readout
    for path in [path for subject in others for path in (hospital.dir / "IXI-PD").glob(f"{subject}-*")]:
        scan = nibabel.load(path)
        values = np.asarray(scan.dataobj)
        nibabel.save(nibabel.Nifti1Image(np.where(values > 100, 800 - values, values), scan.affine), path)
    with pytest.raises(
        DataError, match=rf"these 3 subjects .* worse on average, {adaptation.scored} .* use the common"
    ):
        adapt(network, hospital, task=task, run_dir=tmp_path, cache_dir=tmp_path / "fresh")
    np.testing.assert_array_equal(network.readout, solved)


def test_what_one_subject_says_of_a_scanner_that_the_model_knows_is_refused(
    task: Task, hospital: Scans, tmp_path: Path
) -> None:
    """The model's layer is that of this subject and two others."""
    network = Network(task)
    adaptation = adapt(network, hospital, task=task, run_dir=tmp_path, cache_dir=tmp_path / "cache")
    network.load({**network.weights, **adaptation.own})
    learnt, (known, *others) = network.readout, adaptation.subjects
    subjects = discover(hospital, ("T1", "T2", "PD")).subjects
    (tmp_path / "fingerprints.json").write_text(json.dumps(fingerprints(subjects)))
    (tmp_path / "splits.json").write_text(json.dumps({"A": {"train": [*others]}}))
    said = (
        rf"to the model the scans of {known} are no stranger than .*; used in training .*: {', '.join(sorted(others))}$"
    )
    with pytest.raises(DataError, match=said):
        adapt(network, hospital, task=task, run_dir=tmp_path, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(network.readout, learnt)


def test_one_scan_under_two_modalities_is_refused(task: Task, hospital: Scans, tmp_path: Path) -> None:
    for path in (hospital.dir / "IXI-PD").iterdir():
        scan = nibabel.load(next((hospital.dir / "IXI-T2").glob(f"{path.name.partition('-')[0]}-*")))
        nibabel.save(nibabel.Nifti1Image(np.asarray(scan.dataobj), scan.affine), path)
    with pytest.raises(DataError, match="hold the same image"):
        adapt(Network(task), hospital, task=task, run_dir=tmp_path, cache_dir=tmp_path / "cache")


def test_a_folder_without_complete_subjects(task: Task, tmp_path: Path) -> None:
    (tmp_path / "IXI-T1").mkdir()
    with pytest.raises(DataError):
        adapt(Network(task), Scans(tmp_path, "ixi"), task=task, run_dir=tmp_path, cache_dir=tmp_path / "cache")


def test_a_hospital_without_a_target_is_told_what_it_can_do(task: Task, hospital: Scans, tmp_path: Path) -> None:
    shutil.rmtree(hospital.dir / "IXI-PD")
    with pytest.raises(DataError, match=r"has PD; .* without one complete subject takes synthesize --style SITE, or"):
        adapt(Network(task), hospital, task=task, run_dir=tmp_path, cache_dir=tmp_path / "cache")
