"""The model that a site trains alone: in as many requests as it takes, and only where its figures may leave."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agi_core.config.load import read_task
from agi_core.metric_table import METRIC_NAMES
from agi_core.network import Network
from agi_core.protocol import ALONE, EVALUATE, Reply, Request, pack, unpack
from client.site.file import Site
from client.site.opened import open_site
from client.site.policy import Policy, SitePrivacy
from client.work.alone import KEPT, train_alone
from client.work.job import Job
from tests.support.requests_by_hand import deployed_site, small_task

ROUNDS = 2
PRIVACY = SitePrivacy(ledger="a", ledger_head="b", subjects=12, epsilon=8, delta=1e-5)


@pytest.fixture
def job(ixi_dir: Path, tmp_path: Path) -> Job:
    """A site of 12 subjects is asked to train alone."""
    task, weights = small_task("model.prior=cubic", "personal=head", f"rounds={ROUNDS}")
    request = Request(
        action=EVALUATE,
        run_id="run",
        round=ROUNDS + 1,
        nonce="n",
        task=task,
        subjects=ALONE,
        deadline_s=600,
        weights=pack(weights),
    )
    site = open_site(deployed_site(tmp_path, ixi_dir, rules="policy: {alone: true}"))
    return Job(
        request=request,
        task=read_task(task),
        site=site.file,
        scans=site.scans(read_task(task)),
        network=Network(read_task(task)),
    )


def asked(job: Job, **of_request: Any) -> Reply:
    """The answer to another request, which brings its weights anew."""
    job = dataclasses.replace(job, request=dataclasses.replace(job.request, **of_request), held_back=[])
    job.network.load(unpack(job.request.weights))
    return train_alone(job)


def test_it_goes_on_from_request_to_request_and_ends_as_in_one(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    whole = asked(job)
    assert whole.num_examples == len(job.scans.subjects.test) == 2
    assert {*whole.metrics} == {*METRIC_NAMES}
    assert whole.weights is None
    parts = [asked(job, run_id="slow", deadline_s=0, round=round) for round in range(ROUNDS)]
    assert [(part.metrics, part.suppressed, part.num_examples) for part in parts] == [({}, "", 0)] * ROUNDS
    assert asked(job, run_id="slow", deadline_s=0).metrics == whole.metrics
    (folder,) = {path.parent for path in Path(job.site.state_dir).rglob("*.safetensors")}
    assert folder.name == "alone"
    for path in folder.iterdir():
        path.write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        assert asked(job).metrics == whole.metrics
    assert "begins anew" in caplog.text


@pytest.mark.parametrize(
    "rules",
    [
        {"policy": Policy()},
        {"policy": Policy(alone=True, minimum_subjects=13)},
        {"policy": Policy(alone=True, metrics=["train_loss"])},
        {"policy": Policy(alone=True), "privacy": PRIVACY},
        {"policy": Policy(alone=True, secure_sum_with=[])},
    ],
    ids=["without policy.alone", "few subjects", "no such metric", "privacy", "in secure sums alone"],
)
def test_nothing_is_trained_where_no_figure_may_leave(job: Job, rules: Mapping[str, Any]) -> None:
    site: Site = dataclasses.replace(job.site, **rules)
    reply = asked(dataclasses.replace(job, site=site))
    assert (reply.metrics, reply.num_examples) == ({}, 0)
    assert {*reply.suppressed.split(",")} == {*METRIC_NAMES}
    assert not (Path(site.state_dir) / "alone").exists()


def test_the_newest_runs_are_kept(job: Job) -> None:
    for number in range(KEPT + 1):
        asked(job, run_id=f"run {number}", deadline_s=0)
    assert len([*(Path(job.site.state_dir) / "alone").iterdir()]) == KEPT
