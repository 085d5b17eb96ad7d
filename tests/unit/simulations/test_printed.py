"""What a simulation prints after its last round."""

import io
from pathlib import Path

from rich.console import Console

from agi_core.run.scores import Scores
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
    print_results(summary, Path("run"), Path("report"), compare=True, console=console)
    last = console.file.getvalue().splitlines()[-2:]  # type: ignore[attr-defined]
    assert last == ["warning: [a] is far below", "warning: black"]


def test_what_all_cells_have_spent_of_the_budget_is_said() -> None:
    cells = {"T1:PD": CellResult(how=TRAINED, privacy={"A": {"epsilon": 5.564}})}
    summary = StudySummary(scenario="T1,PD:any", offers={}, cells=cells, delta=1e-5)
    console = Console(file=io.StringIO(), width=120)
    print_matrix(summary, Path("run"), Path("report"), console)
    assert "of all cells together at delta 1e-05: epsilon A 5.56\n" in console.file.getvalue()  # type: ignore[attr-defined]
