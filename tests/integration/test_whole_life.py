"""The whole life of a study and of its model, in real processes on loopback: hospitals join, a fourth comes in the
middle, one leaves and returns, one changes its key, one has another release; a run is stopped, pauses and goes on; a
second study begins with the first; the model is exported, and used where nobody trained."""

import json
import os
import shutil
import signal
from pathlib import Path

import nibabel
import numpy as np
import pytest

from agi_core.__main__ import main as agi_core
from agi_core.run import run_folder
from agi_core.run.events import BaselineFinished, RunPaused, SiteFailed
from client.__main__ import main as client
from client.site.keys import public_path
from tests.support.federation_of_processes import Federation, Hospital, Run, running
from tests.support.real_processes import ROOT, until
from tests.support.small_data import write_head, write_ixi

pytestmark = pytest.mark.slow
SETTINGS = ("model.alignment=none", "federation.wait_s=20", "federation.deadline_s=300")


def register(federation: Federation, name: str) -> None:
    """The hospital's present public key, as the coordinator gets it by e-mail."""
    key = public_path(Path(federation.hospitals[name].site.key_file))
    assert federation.call("register", "--name", name, str(key), "--subjects", "50") == 0


def fingerprint(federation: Federation, name: str) -> str:
    return str(json.loads((federation.dir / "sites.json").read_text())[name]["fingerprint"])


def test_the_whole_life(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with running(federation):
        for name in ("A", "B", "C"):
            federation.join(name, write_ixi(tmp_path / f"scans-{name}", {"Guys": 12}))
        federation.until_ready()
        run = federation.submit("first", "rounds=3", *SETTINGS)
        a_fourth_joins_in_the_middle(federation, run, write_ixi(tmp_path / "scans-D", {"Guys": 12}))
        one_leaves_and_returns(federation, run)
        assert run.took_part() == [["A", "B", "C"], ["A", "B", "C", "D"], ["A", "B", "C", "D"]]
        told = {event.name: [*event.sites] for event in run.events(BaselineFinished)}
        assert told == {
            name: ["A", "B", "C", "D"] for name in ("regression_pooled", "regression_per_site", "local_only")
        }
        assert "against training alone" in run.report()

        one_changes_its_key(federation)
        one_installs_another_release(federation, tmp_path / "other")
        a_second_study_begins_with_the_first(federation, run)
        model_path = tmp_path / "model.zip"
        assert federation.call("export", "first", "--out", str(model_path)) == 0
        hospital = federation.hospitals["A"]
        assert client(["--site-file", str(hospital.site_path), "--gallery", str(model_path)]) == 0
        (page_path,) = (Path(hospital.site.state_dir) / "gallery").iterdir()
        assert "<b>Own</b>" in page_path.read_text()  # its last layer belongs to these very weights
    one_that_did_not_train_uses_the_model(tmp_path, run)


def a_fourth_joins_in_the_middle(federation: Federation, run: Run, data_dir: Path) -> None:
    """The run is stopped in its second round, which then cannot have ended."""
    worker = federation.hospitals["C"].hold(round=2)
    assert federation.call("stop", "first") == 0
    os.kill(worker, signal.SIGCONT)
    assert run.state() == "interrupted"
    federation.join("D", data_dir)
    federation.until_ready()
    assert federation.call("add-site", "first", "D") == 0


def one_leaves_and_returns(federation: Federation, run: Run) -> None:
    """Without C the run pauses, for it needs all; with C, under its old key, it goes on to its end."""
    federation.hospitals["C"].stop()
    assert federation.call("unregister", "C") == 0
    federation.resume(run)
    run.until_state("paused")
    assert "4 are needed" in run.events(RunPaused)[-1].reason
    assert ("C", 2, "not connected") in run.troubles()
    register(federation, "C")
    federation.hospitals["C"].start()
    federation.until_ready()
    federation.resume(run)
    run.until_state("finished")


def one_changes_its_key(federation: Federation) -> None:
    hospital, before = federation.hospitals["B"], fingerprint(federation, "B")
    hospital.stop()
    assert client(["--site-file", str(hospital.site_path), "--new-key"]) == 0
    assert federation.call("unregister", "B") == 0
    register(federation, "B")
    assert fingerprint(federation, "B") != before
    hospital.start()
    federation.until_ready()


def one_installs_another_release(federation: Federation, copy_dir: Path) -> None:
    """D's program differs in a comment."""
    for package in ("agi_core", "client", "server"):
        shutil.copytree(ROOT / package, copy_dir / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy_dir / "client" / "app.py").open("a") as file:
        file.write("# another release\n")
    old = federation.hospitals["D"]
    old.stop()
    federation.hospitals["D"] = Hospital(old.folder, old.site_path, PYTHONPATH=str(copy_dir))
    federation.hospitals["D"].start()
    federation.until_ready()


def a_second_study_begins_with_the_first(federation: Federation, first: Run) -> None:
    """It goes on without D, and says why; D's people read it too."""
    settings = (*SETTINGS, "rounds=1", "federation.quorum=3")
    named = ("submit", "--name", "second", "--from-run", "first")
    assert federation.call(*named, "model.widths=[8,16]", "grid.crop=[32,32]", "reference=T1", *settings) == 0
    second = Run(first.dir.with_name("second"))
    second.until_state("finished")
    begun = run_folder.open_existing(second.dir).initial_weights
    assert str(begun).startswith(str(first.dir / "checkpoints"))
    assert second.took_part() == [["A", "B", "C"]]
    failed = {event.site: event.reason for event in second.events(SiteFailed)}
    assert [*failed] == ["D"]
    assert failed["D"].count("code ") == 2  # theirs and ours
    until(lambda: "release: the message has" in federation.hospitals["D"].printed(), "D's terminal says so")


def one_that_did_not_train_uses_the_model(place: Path, run: Run) -> None:
    """The zip makes the voxels that the run's folder makes."""
    sources = []
    for m, modality in enumerate(("T1", "T2")):
        path = place / f"{modality}.nii.gz"
        write_head(path, seed=1, contrast=1 + m)
        sources += ["--source", f"{modality}={path}"]
    made = {}
    for name, where in {"run": ("--run", run.dir), "zip": ("--model", place / "model.zip")}.items():
        out_path = place / f"{name}.nii.gz"
        assert agi_core(["synthesize", where[0], str(where[1]), *sources, "--out", str(out_path)]) == 0
        made[name] = nibabel.load(out_path).get_fdata()
    np.testing.assert_array_equal(made["run"], made["zip"])
    assert made["zip"].std() > 0
