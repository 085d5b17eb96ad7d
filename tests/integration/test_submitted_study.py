"""A submitted run over a vocabulary at sites of two modalities each: the real apps over an in-process grid."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from flwr.app import Context, RecordDict

from agi_core.__main__ import main as agi_core
from agi_core.cells import folder_of
from agi_core.config.load import load_config
from agi_core.errors import RunError
from agi_core.evaluation import evaluate
from agi_core.experts import cell_task
from agi_core.metric_table import FAULTY
from agi_core.metrics import mean_over_subjects
from agi_core.network import Network
from agi_core.run import run_folder
from agi_core.run.checkpoint import WEIGHTS, save_checkpoint
from agi_core.run.event_log import EventLog, events_of, read_events
from agi_core.run.events import BlendSolved, BlendTested, RunPaused, RunStarted, SiteMissing, UpdateRefused
from agi_core.run.scores import Scores
from agi_core.run.study_summary import read_study_summary
from agi_core.run.summary import Summary, write_summary
from agi_core.run_models import RunModels
from agi_core.scenario import parse_scenario
from client.app import app as client_app
from client.border import audit
from client.site.file import Site, SiteData, to_yaml
from client.site.opened import open_site
from client.site.policy import Policy
from server import runs, status
from server.app import app as server_app
from server.registry import Entry
from server.status import CoordinatorStatus
from server.status_text import status_text
from server.study_plan import cell_config, plan_of
from tests.support.small_data import SMALL_TASK, write_head, write_ixi
from tests.support.unsteady_grid import UnsteadyGrid

OFFERS = {"A": ["T1", "T2"], "B": ["T1", "PD"], "C": ["T2", "PD"]}
SETTINGS = (*SMALL_TASK, "rounds=1", "training.align_target=false", "federation.wait_s=0.3")


def text_of(run_dir: Path) -> str:
    return status_text(CoordinatorStatus(True, True, {}, status.run_status(run_dir)))


class Study:
    """A submitted run, and the sites that it is about: each has three subjects, an unseen one two, with what it
    offers."""

    def __init__(self, folder: Path, scenario: str, offers: Mapping[str, Sequence[str]], *settings: str) -> None:
        self.run_dir, self.nodes = folder / "first", list[dict[str, str]]()
        registered = {site: Entry(f"key {site}", "", subjects=9, modalities=names) for site, names in offers.items()}
        config = load_config(None, overrides={"scenario": scenario}, assignments=(*SETTINGS, *settings))
        run_folder.create(self.run_dir, runs.resolved(config, registered))
        for site, modalities in offers.items():
            count = 2 if site in config.federation.unseen_sites else 3
            data_dir, path = write_ixi(folder / f"scans-{site}", {site: count}), folder / f"{site}.yaml"
            for lacking in {"T1", "T2", "PD"} - {*modalities}:
                shutil.rmtree(data_dir / f"IXI-{lacking}")
            data = SiteData(dir=str(data_dir), layout="ixi")
            policy = Policy(minimum_subjects=1)
            path.write_text(to_yaml(Site(site=site, data=data, cache_dir=str(folder / "cache"), policy=policy)))
            self.nodes.append({"site": site, "site-config": str(path)})

    def skip_training(self) -> None:
        """Each cell is done, with a model that nobody has trained, and that makes something all the same."""
        config = run_folder.open_existing(self.run_dir)
        plan = plan_of(config)
        for seed, cell in enumerate(plan.trained):
            folder, its = folder_of(self.run_dir, cell), dataclasses.replace(cell_config(config, cell, plan), seed=seed)
            run_folder.create(folder, its)
            EventLog(folder).append(RunStarted(run_id=str(cell), sites=its.federation.sites, unseen_sites=[]))
            network = Network(its)
            network.set_readout(np.linspace(-0.3, 0.4, len(network.readout)))
            save_checkpoint(folder, round=1, arrays={WEIGHTS + n: a for n, a in network.weights.items()}, state={})
            score = Scores({"psnr_db": 20.0, "subjects": 1})
            done = Summary(scores=score, rounds=1, wall_s=1.0, scenario=str(cell), reference="", model="")
            write_summary(folder, done)

    def site_path(self, name: str) -> Path:
        return next(Path(node["site-config"]) for node in self.nodes if node["site"] == name)

    def go_on(self, *, away: str = "") -> None:
        """As the SuperLink starts it."""
        grid = UnsteadyGrid(client_app, self.nodes, {away: 10**9}, "", {})
        server_app(grid, Context(1, 1, {}, RecordDict(), {"run-dir": str(self.run_dir)}))


def test_a_run_goes_on_in_the_cell_where_it_stood(tmp_path: Path) -> None:
    """The first cell is finished."""
    study = Study(tmp_path, "T1,T2:any", {"A": ["T1", "T2"]}, "model.prior=cubic")
    done, config = folder_of(study.run_dir, parse_scenario("T2:T1")), run_folder.open_existing(study.run_dir)
    run_folder.create(done, dataclasses.replace(config, scenario="T2:T1"))
    score = Scores({"psnr_db": 20.0, "subjects": 1})
    write_summary(done, Summary(scores=score, rounds=1, wall_s=1.0, scenario="T2:T1", reference="T2", model=""))
    with pytest.raises(RunError, match=r"^cell T1:T2: 0 of 1 sites are connected, .* python -m server resume first$"):
        study.go_on(away="A")
    text = text_of(study.run_dir)
    assert "run first: paused, cell 2 of 2, T1:T2, round 0/1\n  cells done: T2:T1\n" in text
    assert "  cell T1:T2: 0 of 1 sites are connected" in text
    study.go_on()
    assert "run first: finished, 2 cells are trained" in text_of(study.run_dir)
    assert not (done / "events.jsonl").exists()
    summary = read_study_summary(study.run_dir)
    assert summary is not None
    assert {name: cell.how for name, cell in summary.cells.items()} == {"T2:T1": "trained", "T1:T2": "trained"}
    ours, regression = summary.cells["T1:T2"].psnr_db()
    assert ours is not None
    assert regression is not None
    assert f"{ours:.2f} ({regression:.2f})" in (page := (study.run_dir / "report.html").read_text())
    assert 'href="cells/T1-to-T2/report.html"' in page


def test_a_cell_whose_only_site_may_have_left_names_it_and_the_way_out(tmp_path: Path) -> None:
    study = Study(tmp_path, "T1,T2,PD:any", {"B": ["T1", "PD"], "C": ["T2", "PD"]})
    way_out = (
        "; B alone trains this cell; if it has left for good, begin a run without it: python -m server submit"
        " scenario=T2,PD:any federation.sites='[C]'"
    )
    with pytest.raises(RunError) as refused:
        study.go_on(away="B")
    assert str(refused.value).startswith("cell PD:T1: ")
    assert str(refused.value).endswith(f"python -m server resume first{way_out}")
    assert str(refused.value) in text_of(study.run_dir)


def test_a_cell_that_no_site_holds_after_all_is_left_to_a_blend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A offers PD too, but each of its subjects lacks one of the three."""
    study = Study(tmp_path, "T1,T2,PD:any", {"A": ["T1", "T2", "PD"]})
    for number, modality in ((100, "PD"), (101, "T2"), (102, "T1")):
        (tmp_path / "scans-A" / f"IXI-{modality}" / f"IXI{number}-A-{1000 + number}-{modality}.nii.gz").unlink()
    study.go_on()
    why = "nobody trains it: no subject of A has all its modalities, which are offered there"
    assert f"first: T2,PD:T1: {why}" in capsys.readouterr().out
    assert "cells that no site holds: T2,PD:T1, T1,PD:T2, T1,T2:PD\n" in text_of(study.run_dir)
    summary = read_study_summary(study.run_dir)
    assert summary is not None
    blend = summary.cells["T2,PD:T1"]
    assert (blend.how, [*blend.experts], blend.flags) == ("blend", ["T2:T1", "PD:T1"], [why])
    assert why in (study.run_dir / "report.html").read_text()


def test_a_cell_whose_subjects_all_test_is_left_to_a_blend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One subject of A has PD, and tests."""
    study = Study(tmp_path, "T1,T2,PD:any", {"A": ["T1", "T2", "PD"]})
    for number in (101, 102):
        (tmp_path / "scans-A" / "IXI-PD" / f"IXI{number}-A-{1000 + number}-PD.nii.gz").unlink()
    path = study.site_path("A")
    path.write_text(path.read_text().replace("test_subjects: []", "test_subjects: [IXI100]"))
    study.go_on()
    assert "first: T2,PD:T1: nobody trains it: " in capsys.readouterr().out
    summary = read_study_summary(study.run_dir)
    assert summary is not None
    assert {name for name, cell in summary.cells.items() if cell.how == "trained"} == {"T2:T1", "T1:T2"}


def test_a_run_of_which_no_site_holds_any_cell_pauses(tmp_path: Path) -> None:
    study = Study(tmp_path, "T1,T2:any", {"A": ["T1", "T2"]})
    for number, modality in ((100, "T1"), (101, "T2"), (102, "T1")):
        (tmp_path / "scans-A" / f"IXI-{modality}" / f"IXI{number}-A-{1000 + number}-{modality}.nii.gz").unlink()
    with pytest.raises(RunError, match=r"no site has a subject with two of the modalities that it offers"):
        study.go_on()
    assert "cells that no site holds: T2:T1, T1:T2" in text_of(study.run_dir)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """It ended at its second start: at the first one, B was away."""
    study = Study(tmp_path_factory.mktemp("study"), "T1,T2,PD:any", OFFERS)
    with pytest.raises(RunError, match=r"^cell PD:T1: 0 of 1 sites are connected, .* resume first; B alone trains"):
        study.go_on(away="B")
    (study.run_dir / "paused.txt").write_text(text_of(study.run_dir))
    study.go_on()
    return study


@pytest.mark.slow
def test_a_cell_whose_sites_are_away_pauses_the_run_and_is_named(study: Study) -> None:
    text = (study.run_dir / "paused.txt").read_text()
    assert "run first: paused, cell 2 of 6, PD:T1, round 0/1" in text
    assert "  cells done: T2:T1\n" in text
    assert "  cells next: T1:T2, PD:T2, T1:PD, T2:PD\n" in text
    assert "  cell PD:T1: 0 of 1 sites are connected" in text
    assert "go on with: python -m server resume first" in text
    assert "run first: finished, 6 cells are trained" in text_of(study.run_dir)


@pytest.mark.slow
def test_a_finished_cell_is_not_trained_again(study: Study) -> None:
    done, paused = (folder_of(study.run_dir, parse_scenario(name)) for name in ("T2:T1", "PD:T1"))
    assert [len(events_of(its, RunPaused)) for its in (done, paused, study.run_dir)] == [0, 1, 1]
    assert len(events_of(study.run_dir, RunStarted)) == 1
    seconds = [t_s for t_s, _ in read_events(study.run_dir)]
    assert seconds == sorted(seconds)


@pytest.mark.slow
def test_sites_are_asked_about_what_they_offer_alone(study: Study) -> None:
    (whole,) = events_of(study.run_dir, RunStarted)
    for cell in (study.run_dir / "cells").iterdir():
        config, (begun,) = run_folder.open_existing(cell), events_of(cell, RunStarted)
        modalities = {*parse_scenario(config.scenario).modalities}
        assert [*begun.sites] == [site for site, names in OFFERS.items() if modalities <= {*names}]
        assert {*config.federation.subjects} == {*config.federation.keys} == {*begun.sites}
        assert begun.run_id == f"{whole.run_id}/{config.scenario}"


@pytest.mark.slow
def test_the_run_ends_with_blends_of_measured_errors_and_a_summary_that_invents_nothing(study: Study) -> None:
    assert {*json.loads((study.run_dir / "blends.json").read_text())} == {"T1,T2:PD", "T1,PD:T2", "T2,PD:T1"}
    assert all(event.measured and event.disagreements for event in events_of(study.run_dir, BlendSolved))
    summary = read_study_summary(study.run_dir)
    assert summary is not None
    assert {name: cell.how for name, cell in summary.cells.items() if cell.how != "trained"} == dict.fromkeys(
        ("T1,T2:PD", "T1,PD:T2", "T2,PD:T1"), "blend"
    )
    assert summary.cells["T1,T2:PD"].scores is None
    assert [*summary.cells["T2:T1"].sites] == ["A"]
    assert summary.cells["T2:T1"].psnr_db()[0]
    assert summary.offers == OFFERS
    page = (study.run_dir / "report.html").read_text()
    assert 'href="cells/T2-to-PD/report.html"' in page
    assert "no site holds T1, T2 and PD together: no score" in page
    assert "IXI10" not in page


@pytest.mark.slow
def test_the_folder_makes_what_no_site_could_train(study: Study, tmp_path: Path) -> None:
    given = []
    for m, modality in enumerate(("T1", "T2")):
        write_head(tmp_path / f"{modality}.nii.gz", seed=1, contrast=1 + m)
        given += ["--source", f"{modality}={tmp_path / modality}.nii.gz"]
    out_path = tmp_path / "pd.nii.gz"
    assert agi_core(["synthesize", "--run", str(study.run_dir), *given, "--target", "PD", "--out", str(out_path)]) == 0
    assert nibabel.load(out_path).get_fdata().std() > 0


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """D, E, F and G hold everything and train nothing: E counts more subjects than it is registered with, F tells no
    figure of so few, G is away."""
    offers = {"B": ["T1", "PD"], "C": ["T2", "PD"], **{site: ["T1", "T2", "PD"] for site in "DEFG"}}
    unseen = "federation.unseen_sites=[D,E,F,G]"
    study = Study(tmp_path_factory.mktemp("judged"), "T1,T2,PD:any", offers, unseen)
    config = run_folder.open_existing(study.run_dir)
    registered = dataclasses.replace(config.federation, subjects={**config.federation.subjects, "E": 1})
    run_folder.write_config(study.run_dir, dataclasses.replace(config, federation=registered))
    f_path = study.site_path("F")
    f_path.write_text(f_path.read_text().replace("minimum_subjects: 1", "minimum_subjects: 3"))
    study.skip_training()
    study.go_on(away="G")
    return study


def test_a_blend_is_scored_at_the_unseen_site_that_holds_all_of_it(judged: Study) -> None:
    site, models = open_site(judged.site_path("D")), RunModels.of(judged.run_dir)
    summary, left = read_study_summary(judged.run_dir), list[float]()
    assert summary is not None
    assert min(summary.cells["T1,T2:PD"].experts.values()) > 0
    for name in ("T2,PD:T1", "T1,PD:T2", "T1,T2:PD"):
        cell, result = parse_scenario(name), summary.cells[name]
        task = cell_task([run_folder.open_existing(judged.run_dir).task], cell)
        everybody = [(session, None) for session in site.scans(task).everybody]
        score = mean_over_subjects(evaluate(models.model(cell), everybody).values())
        assert result.scores is not None
        assert (result.scores.sites, [*result.scores.unseen_sites]) == ({}, ["D"])
        assert result.scores.unseen_sites["D"].subjects == 2
        told = {name: value for name, value in result.scores.unseen_sites["D"].metrics.items() if name != FAULTY}
        assert told == pytest.approx(score, abs=1e-5)
        assert result.said.startswith(f"{score['psnr_db']:.2f} dB at D; ")
        left.append(result.scores.unseen_sites["D"].psnr_db)
    rows = [row for row in audit.read(Path(site.file.state_dir)) if row.action.startswith("evaluate blend ")]
    assert [row.left["psnr_db"] for row in rows] == left
    page = (judged.run_dir / "report.html").read_text()
    assert summary.cells["T1,T2:PD"].said in page
    assert f"{left[-1]:.2f} blend</td>" in page


def test_a_site_that_tells_no_figure_of_a_blend_is_named(judged: Study) -> None:
    said = "; E told no figure; F holds its figures back; G told no figure"
    assert all(event.said.endswith(said) for event in events_of(judged.run_dir, BlendTested))
    assert {(event.site, event.reason) for event in events_of(judged.run_dir, SiteMissing)} == {("G", "not connected")}
    refused = {(event.site, event.reason) for event in events_of(judged.run_dir, UpdateRefused)}
    assert refused == {("E", "the reply counts 2 subjects, 1 are registered")}
