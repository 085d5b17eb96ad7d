"""What a site tells of its errors, on small real files."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from agi_core import conformal
from agi_core.config.load import read_task
from agi_core.errors import PolicyError, ProtocolError
from agi_core.network import CPU, Network
from agi_core.pooled_errors import LARGEST_FEATURE, with_layer
from agi_core.protocol import (
    CALIBRATION_SUBJECTS,
    ERROR_COUNTS,
    ERROR_STATISTICS,
    Request,
    Weights,
    unpack,
)
from agi_core.ridge import Statistics, Vector
from agi_core.uncertainty import VOXELS, Sample, expected, sample
from client.border import egress
from client.site.opened import OpenSite, open_site
from client.site.policy import Policy, SitePrivacy
from client.work.trainer import answer
from tests.support.requests_by_hand import deployed_site, evaluation_request, small_task

TASK, _ = small_task()
PRIVACY = SitePrivacy(ledger="a", ledger_head="b", subjects=12, epsilon=8, delta=1e-5)


@pytest.fixture(scope="module")
def network() -> Network:
    network = Network(read_task(TASK))
    network.set_readout(np.linspace(-0.3, 0.4, len(network.readout)))
    return network


@pytest.fixture
def site(tmp_path: Path, ixi_dir: Path) -> OpenSite:
    """12 subjects, of whom one validates."""
    return open_site(deployed_site(tmp_path, ixi_dir))


@pytest.fixture
def validated(site: OpenSite, network: Network) -> Sample:
    return sample(network, site.scans(read_task(TASK)).validation)


def asked(question: str, weights: Weights) -> Request:
    return evaluation_request(question, task=TASK, weights=weights)


def layer(network: Network) -> Vector:
    """As if the others had the same error everywhere."""
    return np.eye(1, len(network.readout))[0] * 0.1


def test_statistics_then_counts_of_the_validation_subjects(site: OpenSite, network: Network, validated: Sample) -> None:
    first = asked(ERROR_STATISTICS, network.weights)
    reply = answer(site, first, read_task(TASK), device=CPU)
    assert (reply.num_examples, reply.metrics) == (1, {CALIBRATION_SUBJECTS: 1})
    assert reply.weights is not None
    told = Statistics.from_arrays(unpack(reply.weights), features=len(network.readout), largest=LARGEST_FEATURE)
    np.testing.assert_allclose(told.gram, validated.statistics.gram, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(told.moment, validated.statistics.moment, rtol=1e-4, atol=1e-7)

    second = asked(ERROR_COUNTS, network.weights)
    second = dataclasses.replace(second, weights=with_layer(second.weights, layer(network)))
    reply = answer(site, second, read_task(TASK), device=CPU)
    assert reply.weights is not None
    assert [*unpack(reply.weights)] == ["error_counts"]
    counts = unpack(reply.weights)["error_counts"]
    assert counts.sum() == VOXELS
    foreseen = conformal.count(validated.error / expected(layer(network), validated.features))
    assert np.abs(counts - foreseen).sum() <= 8  # scores on an edge


def test_where_no_figure_leaves_no_array_does(site: OpenSite, network: Network) -> None:
    request = asked(ERROR_STATISTICS, network.weights)
    reply = answer(site, request, read_task(TASK), device=CPU)
    left = egress.let_out(reply, request=request, site=site.file, subjects=12)
    assert left.weights == reply.weights
    small = egress.let_out(reply, request=request, site=site.file, subjects=9)
    assert (small.weights, small.metrics, small.num_examples) == (None, {}, 0)
    assert small.suppressed == f"{CALIBRATION_SUBJECTS},num_examples"
    for policy in (Policy(metrics=["psnr_db"]), Policy(answers_per_model=1)):
        other = dataclasses.replace(request, round=3)
        strict = dataclasses.replace(site.file, policy=policy)
        assert egress.let_out(reply, request=other, site=strict, subjects=12).weights is None


def test_a_private_site_tells_nothing_and_without_a_layer_nobody_does(site: OpenSite, network: Network) -> None:
    private = OpenSite(dataclasses.replace(site.file, privacy=PRIVACY))
    with pytest.raises(PolicyError, match="no noise"):
        answer(private, asked(ERROR_STATISTICS, network.weights), read_task(TASK), device=CPU)
    with pytest.raises(ProtocolError, match="brings no layer"):
        answer(site, asked(ERROR_COUNTS, network.weights), read_task(TASK), device=CPU)
