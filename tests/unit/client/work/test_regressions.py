"""The regressions that a site scores for comparison: those of a simulation, and only where figures may leave."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agi_core.config.load import load_config, read_task
from agi_core.config.schema import FederationConfig, RunConfig
from agi_core.errors import PolicyError, ProtocolError
from agi_core.metric_table import METRIC_NAMES, PERSONAL_METRIC_NAMES
from agi_core.network import CPU, Network
from agi_core.protocol import REGRESSION_OF_ALL, REGRESSIONS, Reply, Request
from agi_core.ridge import Statistics
from client.border import audit, egress
from client.site.opened import OpenSite, open_site
from client.site.policy import Policy, SitePrivacy
from client.work.trainer import answer
from server.common_prior import set_common_prior
from simulations.baselines import SitesData, regression_per_site, regression_pooled
from tests.support.requests_by_hand import deployed_site, evaluation_request, small_task
from tests.support.small_data import SMALL

SETTINGS = ("model.prior=cubic", "model.alignment=affine")
TASK = small_task(*SETTINGS)[0]
PRIVACY = SitePrivacy(ledger="a", ledger_head="b", subjects=12, epsilon=8, delta=1e-5)


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_config(None, overrides={"reference": "T1"}, assignments=[*SMALL, *SETTINGS])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, ixi_dir: Path) -> OpenSite:
    """12 subjects."""
    return open_site(deployed_site(tmp_path_factory.mktemp("site"), ixi_dir))


@pytest.fixture(scope="module")
def federation(site: OpenSite) -> SitesData:
    """The site; another one, of subjects of one kind; and one with the same subjects that did not train."""
    scans = site.scans(read_task(TASK))
    own = [*scans.prior_statistics.values()]
    return SitesData(
        training={},
        prior_statistics={"Guys": own, "HH": own[:1] * 30},
        test={"Guys": scans.test, "HH": []},
        unseen={"IOP": scans.everybody},
        device=CPU,
    )


@pytest.fixture(scope="module")
def asked(federation: SitesData) -> Request:
    """A question about a network that makes something else than its prior, which the coordinator has solved."""
    network = Network(read_task(TASK))
    network.set_readout(np.linspace(-0.1, 0.1, len(network.readout)))
    told = {site: (Statistics.mean(its), len(its)) for site, its in federation.prior_statistics.items()}
    set_common_prior(network, told, federation=FederationConfig())
    return evaluation_request(REGRESSIONS, task=TASK, weights=network.weights)


def left(site: OpenSite, request: Request, **of_site: Any) -> Reply:
    """What leaves the site, with something else in its file."""
    changed = OpenSite(dataclasses.replace(site.file, **of_site))
    reply = answer(changed, request, read_task(request.task), device=CPU)
    return egress.let_out(reply, request=request, site=changed.file, subjects=12)


def test_they_are_those_of_a_simulation(
    site: OpenSite, asked: Request, federation: SitesData, config: RunConfig
) -> None:
    told = left(site, asked)
    pooled, own = regression_pooled(config, federation), regression_per_site(config, federation)
    assert (told.num_examples, told.weights, told.suppressed) == (2, None, "")
    assert {*told.metrics} == {*METRIC_NAMES, *PERSONAL_METRIC_NAMES}
    for name in METRIC_NAMES:
        assert told.metrics[name] == pytest.approx(pooled.sites["Guys"].metrics[name], abs=1e-5)
        assert told.metrics[f"personal_{name}"] == pytest.approx(own.sites["Guys"].metrics[name], abs=1e-5)
    assert told.metrics["personal_psnr_db"] > told.metrics["psnr_db"] + 0.1
    row = audit.read(Path(site.file.state_dir))[-1]
    assert (row.action, row.left["psnr_db"]) == ("evaluate regressions", told.metrics["psnr_db"])

    of_all = left(site, dataclasses.replace(asked, subjects=REGRESSION_OF_ALL))
    assert of_all.num_examples == 12
    assert of_all.metrics == pytest.approx(pooled.unseen_sites["IOP"].metrics, abs=1e-5)


def test_they_leave_as_all_figures_do(site: OpenSite, asked: Request) -> None:
    pooled = left(site, dataclasses.replace(asked, round=1), policy=Policy(metrics=["psnr_db"]))
    assert [*pooled.metrics] == ["psnr_db"]
    assert {*pooled.suppressed.split(",")} == {*METRIC_NAMES, *PERSONAL_METRIC_NAMES} - {"psnr_db"}
    for policy in (Policy(minimum_subjects=13), Policy(metrics=[]), Policy(answers_per_day=1)):
        held_back = left(site, dataclasses.replace(asked, round=0), policy=policy)
        assert held_back.metrics == {}
        assert {*METRIC_NAMES} < {*held_back.suppressed.split(",")}


def test_a_site_that_trains_privately_tells_none(site: OpenSite, asked: Request) -> None:
    """Neither of test subjects beyond its one test of a run, nor of what is solved without noise."""
    told = left(site, asked, privacy=PRIVACY)
    assert (told.metrics, told.num_examples) == ({}, 0)
    assert {*told.suppressed.split(",")} == {*METRIC_NAMES, *PERSONAL_METRIC_NAMES}
    with pytest.raises(PolicyError, match="trains privately"):
        left(site, dataclasses.replace(asked, subjects=REGRESSION_OF_ALL), privacy=PRIVACY)


@pytest.mark.parametrize("question", [REGRESSIONS, REGRESSION_OF_ALL])
def test_a_model_without_a_prior_has_none(site: OpenSite, question: str) -> None:
    task, weights = small_task()
    with pytest.raises(ProtocolError, match="its model has no prior"):
        left(site, evaluation_request(question, task=task, weights=weights))
