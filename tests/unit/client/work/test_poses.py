"""What a site tells of poses, of scans that were moved by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from agi_core.config.load import read_task
from agi_core.config.schema import PrivacyConfig
from agi_core.errors import PolicyError
from agi_core.network import Network
from agi_core.protocol import POSES, unpack
from client.site.opened import open_site
from client.site.policy import Policy
from client.work.job import Job
from client.work.poses import tell_poses
from tests.support.moved_heads import write_moved
from tests.support.requests_by_hand import deployed_site, evaluation_request, small_task


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_moved(tmp_path / "scans", moved_vox={"T1": 3, "T2": 0, "PD": 0}, subjects=10)
    task, weights = small_task()
    request = evaluation_request(POSES, task=task, weights=weights, round=0)
    site = open_site(deployed_site(tmp_path, tmp_path / "scans"))
    scans = site.scans(read_task(task))
    return Job(request=request, task=read_task(task), site=site.file, scans=scans, network=Network(read_task(task)))


def test_one_distance_for_each_source_and_no_figure(job: Job) -> None:
    reply = tell_poses(job)
    assert reply.weights is not None
    offsets = unpack(reply.weights)
    np.testing.assert_allclose(offsets["offsets_mm"], [6, 0], atol=0.5)  # 3 voxels of 2 mm
    assert [*offsets] == ["offsets_mm"]
    assert (reply.num_examples, reply.metrics, reply.steps) == (len(job.scans.subjects.train), {}, 0)


def test_subjects_who_come_change_nothing(job: Job, tmp_path: Path) -> None:
    """Two medians over sets that differ by one subject would tell of that subject."""
    first = tell_poses(job)
    write_moved(tmp_path / "scans", moved_vox={"T1": 1, "T2": 1, "PD": 2}, subjects=30, first=0)
    site = open_site(tmp_path / "Guys.yaml")
    again = tell_poses(dataclasses.replace(job, scans=site.scans(job.task)))
    assert len(site.scans(job.task).subjects.train) > len(job.scans.subjects.train)
    assert first.weights is not None
    assert again.weights is not None
    np.testing.assert_array_equal(unpack(again.weights)["offsets_mm"], unpack(first.weights)["offsets_mm"])


def test_few_subjects_private_training_and_registered_scans_tell_nothing(job: Job) -> None:
    strict = dataclasses.replace(job.site, policy=Policy(minimum_subjects=11))
    registered = dataclasses.replace(job.site, data=dataclasses.replace(job.site.data, register="rigid"))
    private = dataclasses.replace(job.task, privacy=PrivacyConfig(epsilon=8.0))
    for changed, cause in (
        (dataclasses.replace(job, site=strict), "minimum_subjects"),
        (dataclasses.replace(job, site=registered), "one pose"),
        (dataclasses.replace(job, task=private), "no noise"),
    ):
        with pytest.raises(PolicyError, match=cause):
            tell_poses(changed)
