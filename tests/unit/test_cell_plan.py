"""Who trains which cell, and what becomes of the cells that nobody can train."""

import pytest

from agi_core.cell_plan import Plan, check_offers
from agi_core.cells import parse_vocabulary
from agi_core.errors import ConfigError
from agi_core.scenario import parse_scenario

THREE = parse_vocabulary("T1,T2,PD:any")
PAIRS = {"A": ["T1", "T2"], "B": ["T1", "PD"], "C": ["T2", "PD"]}
ALL = {site: dict.fromkeys(THREE.modalities, 5) for site in PAIRS}


def plan_of(offers: dict[str, list[str]], *, local_steps: int = 40) -> Plan:
    holders = {cell: [site for site, names in offers.items() if {*cell.modalities} <= {*names}] for cell in THREE.cells}
    return Plan.of(THREE, holders, offers=offers, local_steps=local_steps)


def test_sites_that_hold_pairs_train_pairs_and_the_rest_is_blended() -> None:
    plan = plan_of(PAIRS)
    assert {str(cell): sites for cell, sites in plan.trained.items()} == {
        "T2:T1": ("A",),
        "PD:T1": ("B",),
        "T1:T2": ("A",),
        "PD:T2": ("C",),
        "T1:PD": ("B",),
        "T2:PD": ("C",),
    }
    assert plan.blends[parse_scenario("T1,T2:PD")] == (parse_scenario("T1:PD"), parse_scenario("T2:PD"))
    assert len(plan.blends) == 3
    assert plan.nobody == ()


def test_a_target_without_a_partner_is_made_by_nobody() -> None:
    plan = plan_of({"A": ["T1", "T2"], "B": ["T1", "T2"]})
    assert {str(cell) for cell in plan.nobody} == {"T1,T2:PD", "T1:PD", "T2:PD", "PD:T1", "PD:T2"}
    assert "T1,T2:PD: nobody can make it" in str(plan)


@pytest.mark.parametrize(
    ("offers", "local_steps", "steps"),
    [
        (PAIRS, 90, 45),
        ({**PAIRS, "D": ["T1", "T2", "PD"]}, 90, 10),  # D trains all nine
        ({**PAIRS, "D": ["T1", "T2", "PD"]}, 12, 4),
        (PAIRS, 2, 2),
    ],
)
def test_cells_share_steps_of_their_busiest_site(offers: dict[str, list[str]], local_steps: int, steps: int) -> None:
    plan = plan_of(offers, local_steps=local_steps)
    assert {plan.steps(cell) for cell in plan.trained} == {steps}


def test_sites_that_go_together_are_let_through() -> None:
    check_offers(PAIRS, THREE, held=ALL)


@pytest.mark.parametrize(
    ("offers", "cause"),
    [
        ({**PAIRS, "D": ["T1", "T2"]}, "no training site D"),
        ({**PAIRS, "A": ["T1", "FLAIR"]}, "A offers FLAIR, and the run is about T1, T2, PD"),
        ({**PAIRS, "A": ["T1"]}, "A offers T1; a site needs two"),
        ({"A": ["T1", "T2"], "B": ["T1", "T2"], "C": ["T1", "T2"]}, "no site offers PD"),
    ],
)
def test_offers_that_cannot_be_are_refused(offers: dict[str, list[str]], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        check_offers(offers, THREE, held=ALL)


def test_a_site_that_offers_what_no_subject_has_is_named() -> None:
    with pytest.raises(ConfigError, match="B offers PD, which none of its subjects has"):
        check_offers(PAIRS, THREE, held={**ALL, "B": {"T1": 5, "T2": 5, "PD": 0}})


def test_sites_with_nothing_in_common_are_refused() -> None:
    four = parse_vocabulary("T1,T2,PD,FLAIR:any")
    held = {site: dict.fromkeys(four.modalities, 5) for site in "ABC"}
    apart = {"A": ["T1", "T2"], "B": ["PD", "FLAIR"]}
    with pytest.raises(ConfigError, match=r"A \(T1, T2\) and B \(PD, FLAIR\) have no modality in common"):
        check_offers(apart, four, held=held)
    check_offers({**apart, "C": ["T2", "PD"]}, four, held=held)
