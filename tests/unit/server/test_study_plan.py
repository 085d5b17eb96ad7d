"""Who trains which cell by what sites offer, and the configuration of a cell."""

import dataclasses
from typing import Any

import pytest

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.errors import ConfigError
from agi_core.privacy.accounting import epsilon
from agi_core.privacy.plan import planned_steps
from agi_core.scenario import parse_scenario
from server.registry import Entry
from server.study_plan import cell_config, plan_of, with_offers

OFFERS = {"A": ["T1", "T2"], "B": ["T1", "PD"], "C": ["T2", "PD"]}
SITES = {site: Entry(f"key {site}", "", subjects=9) for site in "ABCD"}


def config_of(*settings: str, **federation: Any) -> RunConfig:
    config = load_config(None, overrides={"scenario": "T1,T2,PD:any"}, assignments=settings)
    known = {"sites": ("A", "B", "C"), "offers": OFFERS, "subjects": dict.fromkeys("ABCD", 9)}
    return dataclasses.replace(config, federation=dataclasses.replace(config.federation, **known | federation))


def test_steps_budget_and_rule_of_a_cell() -> None:
    private = (
        "privacy.epsilon=8",
        "reference=T2",
        "training.misalign.source=T2",
        "training.local_steps=40",
        "rounds=1",
    )
    config = config_of(*private, quorum=2, aggregation="median", keys=dict.fromkeys("ABC", "key"))
    plan = plan_of(config)
    of_pd, of_t1 = (cell_config(config, parse_scenario(name), plan) for name in ("T2:PD", "T1:PD"))
    assert of_pd.training.local_steps == 20
    assert of_pd.privacy.epsilon == of_t1.privacy.epsilon  # each site trains two cells of 20 steps a round
    assert (of_pd.reference, of_t1.reference) == ("T2", None)
    assert (of_pd.training.misalign.source, of_t1.training.misalign.source) == ("T2", None)
    assert (of_pd.federation.aggregation, of_pd.federation.quorum) == ("mean", 1)
    assert (of_pd.federation.sites, of_pd.federation.subjects) == (("C",), {"C": 9})
    assert of_pd.federation.keys == {"C": "key"}


def test_all_cells_of_a_site_cost_its_budget_together_and_no_more() -> None:
    """A trains two of the cells, and D, which offers everything, all nine: what they share is what D can afford."""
    settings = ("privacy.epsilon=8", "training.local_steps=12", "rounds=1", "model.prior=none")
    config = config_of(*settings, sites=("A", "D"), offers={"A": ["T1", "T2"], "D": ["T1", "T2", "PD"]})
    plan = plan_of(config)
    of_each = {cell: cell_config(config, cell, plan) for cell in plan.trained}
    spent = {
        site: epsilon(
            [steps for cell, its in of_each.items() if site in plan.trained[cell] for steps in planned_steps(its.task)],
            delta=1e-5,
        )
        for site in ("A", "D")
    }
    assert 0.97 * 8 <= spent["D"] <= 8
    assert spent["A"] < spent["D"]
    assert all(its.privacy.epsilon and its.privacy.epsilon > 2 * 8 / 9 for its in of_each.values())


def test_an_unseen_site_is_scored_on_the_cells_that_it_offers() -> None:
    config = config_of(unseen_sites=("D",), offers={**OFFERS, "D": ["T1", "PD"]})
    plan = plan_of(config)
    assert all("D" not in sites for sites in plan.trained.values())
    unseen = {str(cell): cell_config(config, cell, plan).federation.unseen_sites for cell in plan.trained}
    assert {cell for cell, sites in unseen.items() if sites} == {"PD:T1", "T1:PD"}


def test_a_secure_sum_needs_three_holders_of_every_cell() -> None:
    with pytest.raises(ConfigError, match=r"^cell T2:T1: federation.secure_sum=true needs 3 sites"):
        with_offers(config_of(secure_sum=True), SITES)
    everywhere = {site: ["T1", "T2", "PD"] for site in "ABC"}
    assert with_offers(config_of(secure_sum=True, offers=everywhere), SITES).federation.offers == everywhere


@pytest.mark.parametrize(
    ("offers", "cause"),
    [
        ({"D": ["T1", "T2"]}, "there is no training site D"),
        ({"A": ["T1", "FLAIR"]}, "A offers FLAIR, and the run is about T1, T2, PD"),
        ({"A": []}, "A offers nothing; a site needs two"),
        ({site: ["T1", "T2"] for site in "ABC"}, "no site offers PD"),
    ],
)
def test_offers_that_cannot_be_are_refused(offers: dict[str, list[str]], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        with_offers(config_of(offers=OFFERS | offers), SITES)


@pytest.mark.parametrize(
    ("offered", "cause"),
    [(["T1", "FLAIR"], "D offers FLAIR, and the run is about T1, T2, PD"), (["PD"], "D offers PD;")],
)
def test_an_unseen_site_that_no_cell_could_be_scored_at_is_refused(offered: list[str], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        with_offers(config_of(unseen_sites=("D",), offers=OFFERS | {"D": offered}), SITES)
