"""What a site solves in closed form: what it tells of it, and what it keeps."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from agi_core.config.load import read_task
from agi_core.config.schema import Personal, PrivacyConfig
from agi_core.errors import PolicyError
from agi_core.keys import KeyTable
from agi_core.network import Network
from agi_core.protocol import STATISTICS, TEST, Weights, unpack
from agi_core.readout import readout_statistics
from agi_core.ridge import Statistics, solve_own
from agi_core.run.own_weights import load_own_weights, own_weights_path
from client.site.opened import open_site
from client.site.policy import Policy
from client.work import closed_form
from client.work.closed_form import over_own_prior, tell_statistics, with_own_weights
from client.work.evaluation import evaluate
from client.work.job import Job
from tests.support.requests_by_hand import deployed_site, evaluation_request, small_task

OWN = ("model.prior=cubic", "personal=head")


@pytest.fixture
def job(ixi_dir: Path, tmp_path: Path) -> Job:
    """A question to a site of 12 subjects, of a network whose last layer is of no special form."""
    task, weights = small_task(*OWN)
    request = evaluation_request(STATISTICS, task=task, weights=weights, round=0)
    site = open_site(deployed_site(tmp_path, ixi_dir))
    network = Network(read_task(task))
    network.set_readout(np.linspace(-0.1, 0.1, len(network.readout)))
    return Job(
        request=request, task=read_task(task), site=site.file, scans=site.scans(read_task(task)), network=network
    )


def test_statistics_of_the_prior_are_the_mean_over_training_subjects(job: Job) -> None:
    reply = tell_statistics(job)
    assert reply.num_examples == len(job.scans.subjects.train)
    assert (reply.steps, reply.metrics) == (0, {})
    assert reply.weights is not None
    told = Statistics.from_arrays(unpack(reply.weights), features=10)
    expected = Statistics.mean(
        [*readout_statistics(job.network, job.scans.training.sessions, prior_alone=True).values()]
    )
    np.testing.assert_allclose(told.gram, expected.gram, rtol=1e-12)
    np.testing.assert_allclose(told.moment, expected.moment, rtol=1e-12)


def test_a_site_with_few_subjects_and_a_private_one_tell_none(job: Job) -> None:
    strict = dataclasses.replace(job.site, policy=Policy(minimum_subjects=13))
    with pytest.raises(PolicyError, match=r"minimum_subjects: the request asks for statistics of 12 subjects"):
        tell_statistics(dataclasses.replace(job, site=strict))
    private = dataclasses.replace(job.task, privacy=PrivacyConfig(epsilon=8.0))
    with pytest.raises(PolicyError, match="no section privacy"):
        tell_statistics(dataclasses.replace(job, task=private))


def test_within_the_block_the_prior_is_the_sites_own_and_the_head_stays(job: Job) -> None:
    network, before = job.network, job.network.weights["head.weight"].copy()
    common = network.prior
    assert common is not None
    with over_own_prior(job):
        assert network.prior == pytest.approx(
            solve_own([*job.scans.prior_statistics.values()], towards=common), rel=1e-5
        )
        network.module.head.get_parameter("bias").data.fill_(0.5)  # what training learns stays
    np.testing.assert_array_equal(network.prior, common)
    np.testing.assert_array_equal(network.weights["head.weight"], before)
    assert network.weights["head.bias"] == [0.5]


@pytest.mark.parametrize("change", [{"personal": "none"}, {"privacy": PrivacyConfig(epsilon=8.0)}])
def test_without_a_head_of_its_own_and_in_private_training_the_prior_is_the_common_one(
    job: Job, change: dict[str, object]
) -> None:
    """A private gradient of one subject may not depend on the others, whose scans an own prior is solved from."""
    job = dataclasses.replace(job, task=dataclasses.replace(job.task, **change))  # type: ignore[arg-type]
    common = job.network.readout
    with over_own_prior(job):
        np.testing.assert_array_equal(job.network.readout, common)


def test_an_own_last_layer_fits_the_training_subjects_better_and_is_kept(job: Job) -> None:
    network, common = job.network, job.network.readout
    whole = Statistics.mean([*readout_statistics(network, job.scans.training.sessions).values()])
    with with_own_weights(job):
        own = network.readout
        assert whole.mean_square_error(own) < whole.mean_square_error(common)
    np.testing.assert_array_equal(network.readout, common)
    load_own_weights(own_weights_path(Path(job.site.state_dir), run_id="run"), network=network)
    np.testing.assert_array_equal(network.readout, own)


@pytest.mark.parametrize(
    ("limit", "most", "left"),
    [("MOST_KEPT", 3, 3), ("MOST_KEPT_BYTES", 2500, 2), ("MOST_KEPT_BYTES", 0, 1)],  # of about 1000 bytes each
)
def test_the_newest_own_weights_are_kept(
    job: Job, monkeypatch: pytest.MonkeyPatch, limit: str, most: int, left: int
) -> None:
    monkeypatch.setattr(closed_form, limit, most)
    runs = [f"run {number}" for number in range(5)]
    (heads := Path(job.site.state_dir) / "heads").mkdir(parents=True)
    (heads / "ledger-head.json").touch()
    for run in runs:
        with with_own_weights(dataclasses.replace(job, request=dataclasses.replace(job.request, run_id=run))):
            pass
    kept = {own_weights_path(Path(job.site.state_dir), run_id=run) for run in runs[-left:]}
    assert {*heads.iterdir()} == {*kept, heads / "ledger-head.json"}
    assert 800 < next(iter(kept)).stat().st_size < 1200


@pytest.mark.parametrize(("personal", "others_move"), [("head", False), ("norms", False), ("finetune", True)])
def test_own_weights_are_those_of_the_table_and_the_common_ones_come_back(
    job: Job, personal: Personal, others_move: bool
) -> None:
    network = job.network
    job = dataclasses.replace(job, task=dataclasses.replace(job.task, personal=personal))
    common = {name: array.copy() for name, array in network.weights.items()}
    with with_own_weights(job):
        moved = {name for name, array in network.weights.items() if not np.array_equal(array, common[name])}
    assert_same(network.weights, common)
    table = KeyTable.of(job.task, {name: array.ndim for name, array in common.items()})
    assert {"head.weight", "prior.coefficients"} <= moved <= {*table.personal}
    assert ("encoder.1.conv2.weight" in moved) == others_move
    assert any("norm" in name for name in moved) == (personal != "head")
    load_own_weights(own_weights_path(Path(job.site.state_dir), run_id="run"), network=network)
    assert {name for name, array in network.weights.items() if not np.array_equal(array, common[name])} == moved


def assert_same(weights: Weights, others: Weights) -> None:
    assert [*weights] == [*others]
    for name, array in weights.items():
        np.testing.assert_array_equal(array, others[name])


def test_at_a_private_site_a_test_tells_nothing_of_own_weights_not_even_that_they_failed(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are solved from training subjects without noise."""

    def failing(job: Job) -> None:
        raise np.linalg.LinAlgError

    request = dataclasses.replace(job.request, subjects=TEST, round=1)
    private = dataclasses.replace(job.task, privacy=PrivacyConfig(epsilon=8.0))
    asked = dataclasses.replace(job, request=request, task=private)
    before = evaluate(asked)
    monkeypatch.setattr("client.work.evaluation.with_own_weights", failing)
    assert evaluate(asked) == before
    with pytest.raises(np.linalg.LinAlgError):
        evaluate(dataclasses.replace(job, request=request))
