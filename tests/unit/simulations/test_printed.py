"""What a simulation prints after its last round."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agi_core.run.scores import Scores, SiteScore
from agi_core.run.study_summary import TRAINED, CellResult, StudySummary
from agi_core.run.summary import Summary
from simulations.printed import print_matrix, print_results, result_table

ROW = {"psnr_db": 23.456, "ssim": 0.71234, "mae": 0.0456, "nmse": 0.1, "subjects": 14}


def test_the_final_table_fits_eighty_columns() -> None:
    rows = {"Guys-1 (unseen)": ROW, "all training sites": ROW, "baseline: voxel regression": ROW, "nobody": {}}
    console = Console(file=io.StringIO(), width=80)
    console.print(result_table("t1n,t1c,t2w:t2f, whole volume - SYNTHETIC DATA, 2 anatomies", rows))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    body = [line for line in lines if "23.46" in line]
    assert len(body) == 3
    assert all("0.7123" in line and "14" in line for line in body)
    assert not [line for line in lines if "nobody" in line]


def test_what_is_suspicious_is_said_last() -> None:
    summary = Summary(
        scores=Scores({}),
        flags=["[a] is far below", "black"],
        **{"rounds": 1, "wall_s": 1.0, "scenario": "T1,T2:PD", "reference": "T1", "model": "AGI-Net"},
    )
    console = Console(file=io.StringIO(), width=80)
    print_results(summary, Path("run"), Path("report"), console=console)
    last = console.file.getvalue().splitlines()[-2:]  # type: ignore[attr-defined]
    assert last == ["warning: [a] is far below", "warning: black"]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (["local_only", "centralised"], ""),
        (["local_only"], "not run: the centralised baseline; add it to this run with"),
        ([], "not run: training alone (the column alone) and the centralised baseline; add them to this run with"),
    ],
)
def test_what_was_not_compared_is_said_of_what_the_summary_lacks(there: list[str], said: str) -> None:
    summary = Summary(
        scores=Scores({}),
        baselines=dict.fromkeys(there, Scores({})),
        **{"rounds": 1, "wall_s": 1.0, "scenario": "T1,T2:PD", "reference": "T1", "model": "AGI-Net"},
    )
    console = Console(file=io.StringIO(), width=200)
    print_results(summary, Path("run"), Path("report"), console=console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert said in printed if said else "not run" not in printed


@pytest.mark.parametrize("anatomy", [None, "ms19"])
def test_an_anatomy_that_was_held_back_is_said(anatomy: str | None) -> None:
    about: dict[str, Any] = {"rounds": 1, "wall_s": 1.0, "scenario": "T1,T2:PD", "reference": "T1", "model": "AGI-Net"}
    of_one, of_all = (Console(file=io.StringIO(), width=200) for _ in range(2))
    summary = Summary(scores=Scores({}), unseen_anatomy=anatomy, **about)
    print_results(summary, Path("run"), Path("report"), console=of_one)
    whole = StudySummary(scenario="T1,PD:any", offers={}, cells={}, unseen_anatomy=anatomy)
    print_matrix(whole, Path("run"), Path("report"), of_all)
    for console in (of_one, of_all):
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        said = "Held back for the test: the anatomy ms19, on which nobody trained or validated in this run." in printed
        assert said == (anatomy is not None)


def test_where_nobody_can_be_tested_but_those_who_took_no_part_they_are_compared() -> None:
    """Each training site has one subject, as real patients often are."""

    def unseen(**psnr_db: float) -> Scores:
        return Scores.over({}, {site: SiteScore({"psnr_db": its}, 1) for site, its in psnr_db.items()})

    summary = Summary(
        scores=unseen(HH=23.0, IOP=24.0),
        personal=Scores.over({}, {}),  # as in a private run
        baselines={"regression_pooled": unseen(HH=22.0, IOP=24.5), "regression_per_site": Scores({})},
        **{"rounds": 1, "wall_s": 1.0, "scenario": "T1,T2:PD", "reference": "T1", "model": "AGI-Net"},
    )
    console = Console(file=io.StringIO(), width=100)
    print_results(summary, Path("run"), Path("report"), console=console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    assert ["global", "23.00", "24.00", "23.50"] in rows
    assert ["baseline: regression pooled", "22.00", "24.50", "23.25"] in rows
    assert not [row for row in rows if "per site" in row[0]]
    assert "at sites that took no part: global 23.50 dB: +0.25 dB against regression on aligned sources" in printed
    assert "no site has a test subject" in printed


def test_what_privacy_costs_is_said_of_the_global_model_and_no_difference_is_minus_zero() -> None:
    def of(psnr_db: float) -> Scores:
        return Scores.over({"HH": SiteScore({"psnr_db": psnr_db}, 1)}, {})

    summary = Summary(
        scores=of(22.0),
        personal=of(23.0),
        baselines={"public_own_last_layer": of(23.001), "without_privacy": of(22.5)},
        privacy={"HH": {"epsilon": 7.99, "epsilon_rdp": 8.81}},
        delta=1e-5,
        **{"rounds": 1, "wall_s": 1.0, "scenario": "T1,T2:PD", "reference": "T1", "model": "AGI-Net"},
    )
    console = Console(file=io.StringIO(), width=120)
    print_results(summary, Path("run"), Path("report"), console=console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "personal 23.00 dB: +0.00 dB against an own last layer on the public start" in printed
    assert "\nglobal of the same federation without privacy: +0.50 dB\n" in printed
    assert "at delta 1e-05: epsilon HH 7.99\n" in printed


@pytest.mark.parametrize("unseen", [True, False])
def test_whose_model_alone_is_where_nobody_trained_is_said(unseen: bool) -> None:
    site = {"HH": SiteScore({"psnr_db": 22.0}, 1)}
    scores = Scores.over(site, {"IOP": SiteScore({"psnr_db": 21.0}, 1)} if unseen else {})
    summary = Summary(
        scores=scores,
        baselines={"local_only": scores},
        **{"rounds": 1, "wall_s": 1.0, "scenario": "T1,T2:PD", "reference": "T1", "model": "AGI-Net"},
    )
    console = Console(file=io.StringIO(), width=100)
    print_results(summary, Path("run"), Path("report"), console=console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    said = "alone (unseen): the mean over the models that the training sites trained alone\n"
    assert (said in printed) == unseen


def test_what_all_cells_have_spent_of_the_budget_is_said() -> None:
    cells = {"T1:PD": CellResult(how=TRAINED, privacy={"A": {"epsilon": 5.564}})}
    summary = StudySummary(scenario="T1,PD:any", offers={}, cells=cells, delta=1e-5)
    console = Console(file=io.StringIO(), width=120)
    print_matrix(summary, Path("run"), Path("report"), console)
    assert "of all cells together at delta 1e-05: epsilon A 5.56\n" in console.file.getvalue()  # type: ignore[attr-defined]
