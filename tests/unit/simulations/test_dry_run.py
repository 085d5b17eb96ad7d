"""`simulations/run.py --dry-run` as a user types it: the plan is printed, and no run is begun."""

from pathlib import Path

import pytest

from simulations.run import main
from tests.support.small_data import SMALL, write_ixi

OFFERS = "federation.offers={A: [T1,T2], B: [T1,PD], C: [T2,PD]}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three sites of one subject each, in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_ixi(tmp_path / "ixi", dict.fromkeys("ABC", 1))
    return tmp_path


def dry_run(*more: str) -> int:
    return main(["--dry-run", "--data", "ixi", "--clients", "3", *SMALL, "rounds=1", *more])


def test_a_vocabulary_is_shown_by_cell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run("--scenario", "T1,T2,PD:any", "training.local_steps=1", OFFERS) == 0
    printed = capsys.readouterr().out
    assert "│ A │        1 │   1 │   1 │ (1) │" in printed
    assert "1 round of each cell:\nT2:T1: 1 step a round at A\n" in printed
    assert "T1,T2:PD: a blend of T1:PD and T2:PD\n" in printed
    assert "T2:T1: reference T2, 1 site; " in printed
    assert printed.count("weight tensors are trained and averaged") == 6  # the cells that are trained
    assert "may take another reference" in printed
    assert [path.name for path in folder.iterdir()] == ["ixi"]


def test_a_scenario_is_shown_by_site(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run("--scenario", "T1,T2:PD") == 0
    printed = capsys.readouterr().out
    assert "T1,T2:PD, reference T2: 1 round of 2 steps at 3 sites (A 1, B 1, C 1)" in " ".join(printed.split())
    assert "may take another reference" in printed
    assert [path.name for path in folder.iterdir()] == ["ixi"]


def test_a_cell_that_the_run_would_refuse_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run("--scenario", "T1,T2,PD:any", OFFERS, "federation.secure_sum=true") == 2
    assert "cell T2:T1: federation.secure_sum=true needs 3 sites" in capsys.readouterr().err


def test_what_the_run_would_refuse_at_once_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run("device=tpu") == 2
    assert "device=tpu cannot be used on this machine" in capsys.readouterr().err
    assert dry_run("--out", "ixi") == 2
    assert "ixi is not empty; choose another --out" in capsys.readouterr().err
    assert dry_run("--out", "new/run") == 0
    assert [path.name for path in folder.iterdir()] == ["ixi"]


def test_what_cannot_be_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run("--scenario", "T1,T2,FLAIR:any") == 2
    assert "FLAIR" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["ixi"]
