"""Of whom the figures of a validation are."""

import dataclasses
from pathlib import Path

import pytest

from agi_core.config.load import read_task
from agi_core.host import atomic
from agi_core.metric_table import METRIC_NAMES
from agi_core.network import Network
from agi_core.protocol import TEST, VALIDATION
from agi_core.run.own_weights import own_weights_path
from client.site.opened import SiteScans, open_site
from client.site.policy import Policy
from client.work.evaluation import evaluate, means_of_all, told_validation
from client.work.job import Job
from tests.support.requests_by_hand import deployed_site, evaluation_request, small_task

VOLUMES = ("model.dims=3", "grid.crop=[16,16,16]", "evaluation.validation_slices=1")


def job(folder: Path, ixi_dir: Path, *settings: str, minimum: int) -> Job:
    """A question for the validation of a site with six validation subjects."""
    task, weights = small_task(*settings)
    validation = [f"IXI10{n}" for n in range(6)]
    split = {"train": [f"IXI1{n:02}" for n in range(6, 12)], "validation": validation, "test": [], "images": {}}
    site = open_site(deployed_site(folder, ixi_dir)).file
    file = dataclasses.replace(site, policy=Policy(minimum_subjects=minimum), state_dir=str(folder / "state"))
    atomic.write_json(folder / "state" / "split.json", split)
    scans = SiteScans(file, read_task(task))
    request = evaluation_request(VALIDATION, task=task, weights=weights)
    return Job(request=request, task=read_task(task), site=file, scans=scans, network=Network(read_task(task)))


@pytest.mark.parametrize(("minimum", "least"), [(1, 1), (4, 4), (10, 6)])
def test_volumes_are_of_as_many_subjects_as_the_policy_wants(
    ixi_dir: Path, tmp_path: Path, minimum: int, least: int
) -> None:
    """One slice is asked for, which is one volume, and so one patient."""
    told = told_validation(job(tmp_path, ixi_dir, *VOLUMES, minimum=minimum))
    assert len({session.subject_id for session, _ in told}) == least


def test_a_figure_that_one_subject_lacks_is_not_told_of_the_others(ixi_dir: Path, tmp_path: Path) -> None:
    scores = {"a": {"psnr_db": 20.0, "ssim": 0.5}, "b": {"psnr_db": 30.0}}
    strict = job(tmp_path, ixi_dir, minimum=2)
    assert means_of_all(strict, scores, prefix="validation_") == {"psnr_db": 25.0}
    assert strict.held_back == ["validation_ssim"]
    open_to_all = dataclasses.replace(strict, site=dataclasses.replace(strict.site, policy=Policy(minimum_subjects=1)))
    assert means_of_all(open_to_all, scores) == {"psnr_db": 25.0, "ssim": 0.5}


def test_a_site_that_may_tell_no_figure_of_its_test_still_solves_its_last_layer(ixi_dir: Path, tmp_path: Path) -> None:
    """Six test subjects were told of. Without one a figure would tell of him, and no set without him is known."""
    split = {"train": ["IXI106", "IXI107"], "validation": ["IXI108"], "images": {}}
    task, weights = small_task("personal=head")

    def tested(*without: str) -> Job:
        site = open_site(deployed_site(tmp_path, ixi_dir)).file
        data = dataclasses.replace(site.data, exclude=without)
        file = dataclasses.replace(
            site, data=data, policy=Policy(minimum_subjects=3), state_dir=str(tmp_path / "state")
        )
        atomic.write_json(tmp_path / "state" / "split.json", {**split, "test": [f"IXI10{n}" for n in range(6)]})
        request = evaluation_request(TEST, task=task, weights=weights)
        scans = SiteScans(file, read_task(task))
        return Job(request=request, task=read_task(task), site=file, scans=scans, network=Network(read_task(task)))

    told = evaluate(tested())
    assert (told.num_examples, told.suppressed) == (6, "")
    layer = own_weights_path(tmp_path / "state", run_id="run")
    layer.unlink()
    kept = evaluate(tested("IXI100"))
    assert (kept.num_examples, kept.metrics) == (0, {})
    assert {*METRIC_NAMES, "personal_psnr_db"} <= {*kept.suppressed.split(",")}
    assert layer.is_file()
