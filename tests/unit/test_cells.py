from pathlib import Path

import pytest

from agi_core.cells import Vocabulary, folder_of, is_vocabulary, name_of, parse_vocabulary, whole_of
from agi_core.errors import ConfigError
from agi_core.scenario import Scenario


def test_vocabulary_names_modalities_in_order() -> None:
    vocabulary = parse_vocabulary("T2, T1,PD : any")
    assert vocabulary == Vocabulary(("T2", "T1", "PD"))
    assert str(vocabulary) == "T2,T1,PD:any"


def test_cells_are_every_subset_to_every_other_modality() -> None:
    assert [str(cell) for cell in parse_vocabulary("T1,T2,PD:any").cells] == [
        "T2,PD:T1",
        "T2:T1",
        "PD:T1",
        "T1,PD:T2",
        "T1:T2",
        "PD:T2",
        "T1,T2:PD",
        "T1:PD",
        "T2:PD",
    ]
    assert len(parse_vocabulary("t1n,t1c,t2w,t2f:any").cells) == 28


def test_cell_has_its_sources_in_the_order_of_the_vocabulary() -> None:
    assert parse_vocabulary("T1,T2,PD:any").cell(frozenset({"PD", "T1"}), "T2") == Scenario(("T1", "PD"), "T2")


@pytest.mark.parametrize(("text", "expected"), [("T1,T2:any", True), ("T1,T2 : any", True), ("T1,T2:PD", False)])
def test_vocabulary_ends_in_any(text: str, expected: bool) -> None:
    assert is_vocabulary(text) is expected


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("T1:any", "two to 6 modalities, not 1"),
        ("a,b,c,d,e,f,g:any", "two to 6 modalities, not 7"),
        ("T1,T1:any", "a source twice"),
        ("T1,any:any", "among its sources"),
        ("T1,:any", "'' is not the name"),
        ("T1w,T1w[acq-fast],T2w:any", r"T1w and T1w\[acq-fast\] differ only in how they were acquired"),
    ],
)
def test_malformed_vocabularies_are_refused(text: str, cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        parse_vocabulary(text)


def test_what_a_contrast_agent_changes_is_another_modality() -> None:
    assert parse_vocabulary("T1w,T1w[ce-gadolinium],T2w:any").modalities == ("T1w", "T1w[ce-gadolinium]", "T2w")


def test_folder_of_a_cell() -> None:
    folder = folder_of(Path("run"), Scenario(("T1", "T2"), "PD"))
    assert folder == Path("run/cells/T1+T2-to-PD")
    assert (name_of(folder), name_of(Path("runs/run"))) == ("run/cells/T1+T2-to-PD", "run")
    assert (whole_of(folder), whole_of(Path("runs/run"))) == (Path("run"), Path("runs/run"))
