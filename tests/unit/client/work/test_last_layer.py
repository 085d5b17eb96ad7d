"""The own last layer of a site, which leaves where the site's rules say so, on small real files."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agi_core.config.load import read_task
from agi_core.network import CPU, Network
from agi_core.protocol import (
    LAST_LAYER,
    LAST_LAYER_ARRAY,
    LAYER_STATISTICS,
    OF_LAST_LAYER,
    TEST,
    Reply,
    Request,
    pack,
    unpack,
)
from agi_core.readout import readout_statistics
from agi_core.ridge import Statistics
from agi_core.run.own_weights import load_own_weights
from client.border import audit, egress
from client.site.opened import OpenSite, open_site
from client.site.policy import Policy, SitePrivacy
from client.work.trainer import answer
from tests.support.requests_by_hand import deployed_site, evaluation_request, small_task

TASK, WEIGHTS = small_task("model.prior=cubic", "personal=head")
SHARES = Policy(share_last_layer=True)
PRIVACY = SitePrivacy(ledger="a", ledger_head="b", subjects=12, epsilon=8, delta=1e-5)


def asked(question: str, task: str = TASK, **of_request: Any) -> Request:
    request = evaluation_request(question, task=task, weights=WEIGHTS)
    return dataclasses.replace(request, **of_request)


def left(site: OpenSite, request: Request, **of_site: Any) -> Reply:
    """What leaves the site, with something else in its file."""
    changed = OpenSite(dataclasses.replace(site.file, **of_site))
    reply = answer(changed, request, read_task(request.task), device=CPU)
    return egress.let_out(reply, request=request, site=changed.file, subjects=12)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, ixi_dir: Path) -> OpenSite:
    """12 subjects; the site was tested, and so has a last layer of its own."""
    site = open_site(deployed_site(tmp_path_factory.mktemp("site"), ixi_dir))
    left(site, asked(TEST))
    return site


def test_its_numbers_alone_leave_where_the_site_shares_it(site: OpenSite) -> None:
    told = left(site, asked(LAST_LAYER), policy=SHARES)
    assert told.weights is not None
    trained_on = site.scans(read_task(TASK)).subjects.train
    assert (told.metrics, told.suppressed, told.num_examples) == ({}, "", len(trained_on))
    ((name, layer),) = unpack(told.weights).items()
    network = Network(read_task(TASK))
    network.load(WEIGHTS)
    common = network.readout
    load_own_weights(*(Path(site.file.state_dir) / "heads").iterdir(), network=network)
    np.testing.assert_array_equal(layer, network.readout)
    assert np.abs(layer - common).max() > 1e-3
    row = audit.read(Path(site.file.state_dir))[-1]
    assert (row.action, row.left[LAST_LAYER_ARRAY], row.weights_bytes) == (
        "evaluate last layer",
        layer.size,
        layer.nbytes,
    )
    assert name == LAST_LAYER_ARRAY


@pytest.mark.parametrize(
    ("request_", "of_site"),
    [
        (asked(LAST_LAYER), {}),
        (asked(LAST_LAYER), {"policy": dataclasses.replace(SHARES, minimum_subjects=13)}),
        (asked(LAST_LAYER), {"policy": SHARES, "privacy": PRIVACY}),
        (
            asked(LAST_LAYER, small_task("model.prior=cubic", "personal=head", "privacy.epsilon=8")[0]),
            {"policy": SHARES},
        ),
        (asked(LAST_LAYER, small_task("model.prior=cubic", "personal=norms")[0]), {"policy": SHARES}),
        (asked(LAST_LAYER, run_id="another"), {"policy": SHARES}),
        (asked(LAST_LAYER, weights=pack({n: a + np.float32(0.01) for n, a in WEIGHTS.items()})), {"policy": SHARES}),
    ],
    ids=["not shared", "few subjects", "private site", "private run", "norms", "another run", "other weights"],
)
def test_else_it_stays_and_that_is_no_fault(
    site: OpenSite, caplog: pytest.LogCaptureFixture, request_: Request, of_site: dict[str, Any]
) -> None:
    with caplog.at_level(logging.INFO):
        told = left(site, request_, **of_site)
    assert (told.weights, told.metrics, told.num_examples) == (None, {}, 0)
    assert told.suppressed.split(",")[0] == LAST_LAYER_ARRAY
    (said,) = [message for message in caplog.messages if message.startswith("this site's own last layer stays here")]
    kept = request_.run_id == asked(TEST).run_id
    assert ("synthesize --head with this site's state_dir" in said) == kept
    assert site.file.state_dir not in said
    row = audit.read(Path(site.file.state_dir))[-1]
    assert (row.decision, row.held_back[0], row.weights_bytes) == ("answered", LAST_LAYER_ARRAY, 0)


def test_a_layer_of_somebody_who_is_gone_stays(site: OpenSite, tmp_path: Path) -> None:
    """The layer was solved with them, and is asked for once they are gone. After another test it is of the others."""
    gone = site.scans(read_task(TASK)).subjects.train[0].id
    new = OpenSite(dataclasses.replace(site.file, state_dir=str(tmp_path)))
    left(new, asked(TEST))
    fewer = {"policy": SHARES, "data": dataclasses.replace(site.file.data, exclude=(gone,))}
    assert left(new, asked(LAST_LAYER), **fewer).weights is None
    left(new, asked(TEST, round=2), **fewer)
    assert left(new, asked(LAST_LAYER, round=2), **fewer).weights is not None


def test_of_a_set_of_subjects_that_it_does_not_tell_of_it_stays(site: OpenSite, tmp_path: Path) -> None:
    """One training subject less since the site told of all; and one more, at a site that begins without it."""
    gone = site.scans(read_task(TASK)).subjects.train[0].id
    whole, fewer = {"policy": SHARES}, {"policy": SHARES, "data": dataclasses.replace(site.file.data, exclude=(gone,))}
    assert left(site, asked(LAST_LAYER), **whole).weights is not None
    new = OpenSite(dataclasses.replace(site.file, state_dir=str(tmp_path)))
    left(new, asked(TEST), **fewer)
    assert left(new, asked(LAST_LAYER), **fewer).weights is not None
    for of, rules in ((site, fewer), (new, whole)):
        left(of, asked(TEST, run_id="later"), **rules)
        assert left(of, asked(LAST_LAYER, run_id="later"), **rules).weights is None


def test_the_statistics_for_a_last_layer_for_all_are_the_mean_over_training_subjects(site: OpenSite) -> None:
    told = left(site, asked(LAYER_STATISTICS), policy=SHARES)
    assert told.weights is not None
    scans, network = site.scans(read_task(TASK)), Network(read_task(TASK))
    network.load(WEIGHTS)
    expected = Statistics.mean([*readout_statistics(network, scans.training.sessions).values()])
    told_statistics = Statistics.from_arrays(unpack(told.weights), features=network.readout.size, largest=1e3)
    np.testing.assert_allclose(told_statistics.gram, expected.gram, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(told_statistics.moment, expected.moment, rtol=1e-12, atol=1e-15)
    assert (told.metrics, told.suppressed, told.num_examples) == ({}, "", len(scans.subjects.train))
    row = audit.read(Path(site.file.state_dir))[-1]
    numbers = told_statistics.arrays()["statistics"].size
    assert (row.action, row.left["last_layer_statistics"], row.weights_bytes) == (
        "evaluate last layer statistics",
        numbers,
        8 * numbers,
    )


@pytest.mark.parametrize(
    ("task", "of_site"),
    [
        (TASK, {}),
        (TASK, {"policy": dataclasses.replace(SHARES, minimum_subjects=13)}),
        (TASK, {"policy": SHARES, "privacy": PRIVACY}),
        (small_task("model.prior=cubic", "personal=head", "privacy.epsilon=8")[0], {"policy": SHARES}),
        (small_task("model.prior=cubic", "personal=norms")[0], {"policy": SHARES}),
    ],
    ids=["not shared", "few subjects", "private site", "private run", "norms"],
)
def test_else_the_statistics_stay(site: OpenSite, task: str, of_site: dict[str, Any]) -> None:
    told = left(site, asked(LAYER_STATISTICS, task), **of_site)
    assert (told.weights, told.metrics, told.num_examples) == (None, {}, 0)
    assert told.suppressed.split(",")[0] == OF_LAST_LAYER[LAYER_STATISTICS]


def test_of_one_training_subject_less_the_statistics_are_of_nobody(site: OpenSite, tmp_path: Path) -> None:
    """Their difference to those of all would be of one subject."""
    new = OpenSite(dataclasses.replace(site.file, state_dir=str(tmp_path)))
    assert left(new, asked(LAYER_STATISTICS), policy=SHARES).weights is not None
    gone = site.scans(read_task(TASK)).subjects.train[0].id
    fewer = {"policy": SHARES, "data": dataclasses.replace(site.file.data, exclude=(gone,))}
    assert left(new, asked(LAYER_STATISTICS, round=2), **fewer).weights is None
