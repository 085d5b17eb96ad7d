"""The figures of a run over a vocabulary: the matrix, and the file."""

import json
from pathlib import Path

import pytest

from agi_core.errors import RunError
from agi_core.run.scores import Scores, SiteScore
from agi_core.run.study_summary import (
    BLEND,
    NOBODY,
    TRAINED,
    CellResult,
    StudySummary,
    read_study_summary,
    write_study_summary,
)

HERE, ELSEWHERE = {"B": SiteScore({"psnr_db": 20.0}, 1)}, {"A": SiteScore({"psnr_db": 17.0}, 2)}
SUMMARY = StudySummary(
    scenario="T1,PD:any",
    offers={"A": ["T1"], "B": ["T1", "PD"]},
    cells={
        "PD:T1": CellResult(how=NOBODY),
        "T1:PD": CellResult(
            how=TRAINED,
            sites=["B"],
            scores=Scores.over(HERE, ELSEWHERE),
            regression=Scores.over({"B": SiteScore({"psnr_db": 19.0}, 1)}, {}),
        ),
    },
)


def test_the_matrix_is_over_all_subjects_and_at_each_site() -> None:
    assert SUMMARY.scored_sites == ["A", "B"]
    assert SUMMARY.matrix() == (["T1", "PD"], [["PD", "nobody", ""], ["T1", "", "18.00"]])  # A has no regression
    assert SUMMARY.matrix("B") == (["T1", "PD"], [["PD", "", ""], ["T1", "", "20.00 (19.00)"]])
    assert SUMMARY.matrix("A") == (["T1", "PD"], [["PD", "", ""], ["T1", "", "17.00"]])


def test_beside_all_sites_the_regression_is_of_all_sites() -> None:
    both = Scores.over(HERE, ELSEWHERE)
    assert CellResult(how=TRAINED, scores=both, regression=both).psnr_db() == (18.0, 18.0)
    assert CellResult(how=TRAINED, regression=both).psnr_db() == (None, None)


def test_a_blend_without_figures_is_named() -> None:
    blend = CellResult(how=BLEND, experts={"PD:T1": 1.0})
    cells = {**SUMMARY.cells, "PD:T1": blend}
    summary = StudySummary(scenario="T1,PD:any", offers={}, cells=cells)
    assert summary.matrix()[1][0] == ["PD", "blend", ""]


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_study_summary(tmp_path) is None
    write_study_summary(tmp_path, SUMMARY)
    again = read_study_summary(tmp_path)
    assert again is not None
    assert json.dumps(again.to_json()) == json.dumps(SUMMARY.to_json())
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="damaged"):
        read_study_summary(tmp_path)


def test_what_a_site_has_spent_is_what_its_ledger_had_after_its_last_cell() -> None:
    spent = [{"B": {"epsilon": 4.0}, "C": {"epsilon": 2.0}}, {}, {"B": {"epsilon": 5.5}}]
    cells = {f"T{k}:PD": CellResult(how=TRAINED, privacy=its) for k, its in enumerate(spent)}
    assert StudySummary(scenario="T1,PD:any", offers={}, cells=cells).epsilons == {"B": 5.5, "C": 2.0}
