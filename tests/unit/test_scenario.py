import pytest
from hypothesis import given
from hypothesis import strategies as st

from agi_core.errors import ConfigError
from agi_core.scenario import Scenario, modality_parts, parse_scenario

NAMES = st.lists(st.text("TPDabc123", min_size=1, max_size=4), min_size=2, max_size=5, unique=True)


def test_scenario_names_sources_in_order_and_target() -> None:
    scenario = parse_scenario("T2, T1 : PD")
    assert scenario == Scenario(sources=("T2", "T1"), target="PD")
    assert scenario.modalities == ("T2", "T1", "PD")
    assert str(scenario) == "T2,T1:PD"
    assert [scenario.reference(chosen) for chosen in ("T2", "T1", None)] == ["T2", "T1", "T1"]


@given(NAMES)
def test_text_of_a_scenario_gives_it_back(names: list[str]) -> None:
    scenario = Scenario(tuple(names[:-1]), names[-1])
    assert parse_scenario(str(scenario)) == scenario


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "not the name"),
        ("T1,T2", "'' is not the name"),
        (":PD", "'' is not the name"),
        ("T1:", "'' is not the name"),
        ("T1,,T2:PD", "'' is not the name"),
        ("T1:T2:PD", "'T2:PD' is not the name"),
        ("T1:T2,PD", "'T2,PD' is not the name"),
        ("../T1:PD", "not the name"),
        ("T1w[]:T2w", "not the name"),
        ("T1w[ce]:T2w", "not the name"),
        ("T1w[ce-x,acq-y]:T2w", "not the name"),
        ("T1,T1:PD", "a source twice"),
        ("T1,PD:PD", "the target PD is among its sources"),
    ],
)
def test_malformed_scenario_is_refused_with_an_example(text: str, cause: str) -> None:
    with pytest.raises(ConfigError, match=cause) as caught:
        parse_scenario(text)
    assert "T1,T2:PD" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("T1,T2,PD:ANY", "'ANY' is written any"),
        ("T1,T1:any", "a source twice"),
        (":any", "'' is not the name"),
        ("T1,T2,any:any", "the target any is among its sources"),
    ],
)
def test_malformed_vocabulary_is_refused_with_an_example_of_its_own(text: str, cause: str) -> None:
    with pytest.raises(ConfigError, match=cause) as caught:
        parse_scenario(text)
    assert "T1,T2,PD:any" in str(caught.value)
    assert "one target" not in str(caught.value)


def test_entities_choose_among_the_scans_of_a_modality() -> None:
    scenario = parse_scenario("T1w[ce-gadolinium],T2w[acq-tse_run-1]:FLAIR")
    assert str(scenario) == "T1w[ce-gadolinium],T2w[acq-tse_run-1]:FLAIR"
    assert [modality_parts(modality) for modality in scenario.modalities] == [
        ("T1w", {"ce-gadolinium"}),
        ("T2w", {"acq-tse", "run-1"}),
        ("FLAIR", frozenset()),
    ]
    with pytest.raises(ValueError, match="is not the name"):
        modality_parts("T1w[")
