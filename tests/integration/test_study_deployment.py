"""Three hospitals of two modalities each train a vocabulary, in real processes on loopback: one asks its people first,
and the coordinator's machine dies in the middle of a cell."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from agi_core.run.event_log import events_of
from agi_core.run.events import BlendSolved, RoundFinished, RunPaused, SiteFailed
from agi_core.run.study_summary import read_study_summary
from client.border import consent
from tests.support.federation_of_processes import Federation, Run, running
from tests.support.real_processes import until
from tests.support.small_data import write_ixi

pytestmark = pytest.mark.slow
LACKING = {"A": "PD", "B": "T2", "C": "T1"}
SETTINGS = (
    *("scenario=T1,T2,PD:any", "rounds=1", "model.alignment=none", "model.prior=none", "personal=none"),
    *("training.align_target=false", "federation.wait_s=60", "federation.deadline_s=300"),
)


def test_hospitals_with_different_modalities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    federation = Federation(tmp_path)
    with running(federation):
        for name in LACKING:
            join(federation, name)
        federation.until_ready()
        run = federation.submit("any", *SETTINGS)
        assert "T1,T2:PD: a blend of T1:PD and T2:PD" in capsys.readouterr().out
        b_agrees_once_for_both_of_its_cells(federation, run)
        the_machine_dies_in_a_middle_cell(federation, run, capsys)
        run.until_state("finished")
    trained = {path.name: path for path in (run.dir / "cells").iterdir()}
    assert {name: [its.sites for its in events_of(path, RoundFinished)] for name, path in trained.items()} == {
        **{"T2-to-T1": [["A"]], "T1-to-T2": [["A"]], "PD-to-T1": [["B"]], "T1-to-PD": [["B"]]},
        **{"PD-to-T2": [["C"]], "T2-to-PD": [["C"]]},
    }
    assert not [event for path in trained.values() for event in events_of(path, SiteFailed)]
    blends = events_of(run.dir, BlendSolved)
    assert {event.cell for event in blends if event.measured} == {"T1,T2:PD", "T1,PD:T2", "T2,PD:T1"}
    assert {*json.loads((run.dir / "blends.json").read_text())} == {event.cell for event in blends}
    summary = read_study_summary(run.dir)
    assert summary is not None
    assert {name for name, cell in summary.cells.items() if cell.psnr_db()[0]} == {
        name.replace("-to-", ":") for name in trained
    }
    assert "no site holds T1, T2 and PD together: no score" in run.report()


def join(federation: Federation, name: str) -> None:
    """A hospital that is registered with what it offers; B's people want to be asked."""
    data_dir = write_ixi(federation.folder / f"scans-{name}", {"Guys": 10})
    shutil.rmtree(data_dir / f"IXI-{LACKING[name]}")
    offered = ",".join(modality for modality in ("T1", "T2", "PD") if modality != LACKING[name])
    hospital = federation.join(name, data_dir, registered=("--modalities", offered))
    rules = hospital.site_path.read_text().replace("alone: true", "alone: false")
    hospital.site_path.write_text(rules.replace("studies: any", "studies: ask") if name == "B" else rules)


def b_agrees_once_for_both_of_its_cells(federation: Federation, run: Run) -> None:
    run.until_state("paused")
    assert "cell PD:T1: " in run.events(RunPaused)[-1].reason
    assert "B sits out: The request is not allowed by the site's policy." in run.events(RunPaused)[-1].reason
    state_dir = Path(federation.hospitals["B"].site.state_dir)
    (study,) = consent.studies(state_dir)
    assert study.run.startswith("any-")
    consent.agree(state_dir, study)
    federation.resume(run)


def the_machine_dies_in_a_middle_cell(federation: Federation, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """While C trains its first cell. Then it is started again."""
    worker = federation.hospitals["C"].hold(round=1)
    federation.up.kill()
    federation.up.process.wait(60)
    os.kill(worker, signal.SIGCONT)
    until(lambda: run.state() == "interrupted", "the coordinator's processes have ended with it")
    federation.start()
    assert federation.call("status") == 0
    assert "cell 4 of 6, PD:T2, round 1/1\n  cells done: T2:T1, PD:T1, T1:T2\n" in capsys.readouterr().out
    federation.resume(run)
