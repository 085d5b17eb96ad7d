"""The reference and the target's pose, measured on scans that were moved by hand."""

import dataclasses
from pathlib import Path

import pytest

from agi_core.config.load import load_config
from agi_core.config.schema import PrivacyConfig, RunConfig
from agi_core.data.scans import Subject
from simulations.poses import measured_offsets_mm, with_measured_poses
from simulations.sites import find_sites, prepare_caches, training_subjects
from tests.support.moved_heads import write_moved


def prepared(root: Path, *settings: str) -> tuple[RunConfig, dict[str, list[Subject]]]:
    overrides = {"data.dir": str(root), "data.cache_dir": str(root / "cache"), "clients": 1, "scenario": "T1,T2:PD"}
    config, federation = find_sites(load_config(None, overrides=overrides, assignments=settings))
    return config, training_subjects(config, prepare_caches(config, federation))


def test_the_reference_is_the_source_that_lies_nearest(tmp_path: Path) -> None:
    write_moved(tmp_path, moved_vox={"T1": 3, "T2": 0, "PD": 0})
    config, training = prepared(tmp_path)
    offsets = measured_offsets_mm(config, training)["Guys"]
    assert offsets["T1"] == pytest.approx(6, abs=0.5)
    assert offsets["T2"] < 0.3
    chosen, text = with_measured_poses(config, training, reference_chosen=False)
    assert (chosen.reference, chosen.training.align_target) == ("T2", False)
    assert text == "measured distance to PD in the plane: T2 0.0 mm, T1 6.0 mm; reference T2"


def test_a_target_in_a_pose_of_its_own_is_aligned_and_that_is_said(tmp_path: Path) -> None:
    write_moved(tmp_path, moved_vox={"T1": 0, "T2": 0, "PD": 2})
    config, training = prepared(tmp_path)
    chosen, text = with_measured_poses(config, training, reference_chosen=False)
    assert chosen.training.align_target is True
    assert text.endswith("No source lies in the pose of PD, so it is aligned too, in training alone")
    kept, text = with_measured_poses(
        dataclasses.replace(config, training=dataclasses.replace(config.training, align_target=False)),
        training,
        reference_chosen=False,
    )
    assert kept.training.align_target is False
    assert "aligned" not in text


def test_what_the_user_chose_stays_and_a_private_run_measures_nothing(tmp_path: Path) -> None:
    write_moved(tmp_path, moved_vox={"T1": 3, "T2": 0, "PD": 0})
    config, training = prepared(tmp_path, "reference=T1")
    chosen, _ = with_measured_poses(config, training, reference_chosen=True)
    assert (chosen.reference, chosen.training.align_target) == ("T1", True)  # nearer than 0.6 mm is only T2
    settled = dataclasses.replace(config, training=dataclasses.replace(config.training, align_target=False))
    assert with_measured_poses(settled, training, reference_chosen=True) == (settled, "")
    private = dataclasses.replace(config, privacy=PrivacyConfig(epsilon=8.0))
    assert with_measured_poses(private, training, reference_chosen=False) == (private, "")
