"""A run over a vocabulary as a user types it: sites of two modalities each, cells, blends, and the matrix."""

import io
import json
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from agi_core.blend import blend_weights
from agi_core.run.event_log import events_of
from agi_core.run.events import BlendSolved
from client.app import app as client_app
from server.app import app as server_app
from simulations.local_grid import run_in_process
from simulations.run import main
from tests.support.events import kinds_of
from tests.support.small_data import SMALL, write_ixi

OFFERS = "federation.offers={A: [T1,T2], B: [T1,PD], C: [T2,PD]}"


def study(folder: Path, *more: str, out: Path | None = None) -> int:
    settings = (
        "rounds=1",
        "model.prior=cubic",
        "personal=head",
        "training.align_target=false",
        OFFERS,
    )
    places = ["--data", str(folder / "ixi"), "--out", str(out or folder / "run"), f"data.cache_dir={folder / 'cache'}"]
    return main([*places, "--clients", "3", "--scenario", "T1,T2,PD:any", *SMALL, *settings, *more])


def summary_of(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three sites of three subjects. The one that would train at A lacks T2, so A trains nothing."""
    folder = tmp_path_factory.mktemp("study")
    data_dir = write_ixi(folder / "ixi", {"A": 3, "B": 3, "C": 3})
    (data_dir / "IXI-T2" / "IXI102-A-1102-T2.nii.gz").unlink()
    with redirect_stdout(io.StringIO()) as printed:
        assert study(folder) == 0
    (folder / "printed.txt").write_text(printed.getvalue())
    return folder


def test_what_a_site_can_train_is_trained_and_the_rest_is_blended(folder: Path) -> None:
    run, cells = folder / "run", summary_of(folder / "run")["cells"]
    trained = {name: cell["sites"] for name, cell in cells.items() if cell["how"] == "trained"}
    assert trained == {"PD:T1": ["B"], "PD:T2": ["C"], "T1:PD": ["B"], "T2:PD": ["C"]}
    assert {path.name for path in (run / "cells").iterdir()} == {name.replace(":", "-to-") for name in trained}
    for path in (run / "cells").iterdir():
        assert {"config.yaml", "summary.json", "report.html", "checkpoints"} <= {its.name for its in path.iterdir()}
        said = summary_of(path)["known_range"]["said"]  # each cell asks for its own
        assert said.startswith("no known range: it takes 5 subjects, and sites told of 1 training subjects at 1 of 1")
    assert (folder / "printed.txt").read_text().count("no known range") == len(trained)
    blends = json.loads((run / "blends.json").read_text())
    assert {name: {*weights} for name, weights in blends.items()} == {
        "T2,PD:T1": {"PD:T1"},
        "T1,PD:T2": {"PD:T2"},
        "T1,T2:PD": {"T1:PD", "T2:PD"},
    }
    assert {name: cell["experts"] for name, cell in cells.items() if cell["how"] == "blend"} == blends
    assert {name for name, cell in cells.items() if cell["how"] == "nobody"} == {"T2:T1", "T1:T2"}


def test_weights_follow_from_what_the_sites_told(folder: Path) -> None:
    events = {event.cell: event for event in events_of(folder / "run", BlendSolved)}
    event = events["T1,T2:PD"]
    assert event.measured
    first, second = event.errors["T1:PD"], event.errors["T2:PD"]
    weights = blend_weights([first, second], {(0, 1): event.disagreements["T1:PD T2:PD"]})
    assert [*event.weights.values()] == pytest.approx(weights)
    assert first != second


def test_a_blend_is_scored_at_the_hospital_that_never_had_the_target(folder: Path) -> None:
    cells = summary_of(folder / "run")["cells"]
    assert {*cells["T1,T2:PD"]["scores"]["unseen_sites"]} == {"A"}
    assert {*cells["T2:PD"]["scores"]["unseen_sites"]} == {"A"}
    assert {*cells["T2:PD"]["scores"]["sites"]} == {"C"}
    assert cells["T1,T2:PD"]["scores"]["unseen_sites"]["A"]["subjects"] == 1
    assert cells["T2:PD"]["regression"]["sites"]["C"]["psnr_db"] > 0


def test_the_regression_of_a_blend_is_of_the_priors_that_its_experts_were_trained_over(folder: Path) -> None:
    """A blend of one expert has its regression, on the same subject."""
    cells = summary_of(folder / "run")["cells"]
    for name, one, site in (("T2,PD:T1", "PD:T1", "C"), ("T1,PD:T2", "PD:T2", "B")):
        blend, expert = (cells[cell]["regression"]["unseen_sites"][site] for cell in (name, one))
        assert blend == pytest.approx(expert, abs=1e-3)


def test_where_a_site_tells_no_error_the_weights_are_equal(folder: Path, tmp_path: Path) -> None:
    """B holds its figures back: the errors of its experts are not known, those of the others are."""
    shutil.copytree(folder / "run", tmp_path / "run")
    site = tmp_path / "run" / "sites" / "B.yaml"
    site.write_text(site.read_text().replace("metrics: null", "metrics: []"))
    nodes = [{"site": name, "site-config": str(tmp_path / "run" / "sites" / f"{name}.yaml")} for name in "ABC"]
    run_in_process(server_app, client_app, node_configs=nodes, run_config={"run-dir": str(tmp_path / "run")})
    events = {event.cell: event for event in events_of(tmp_path / "run", BlendSolved)}
    assert not events["T1,T2:PD"].measured
    assert events["T1,T2:PD"].weights == {"T1:PD": 0.5, "T2:PD": 0.5}
    assert {*events["T1,T2:PD"].errors} == {"T2:PD"}
    assert events["T1,PD:T2"].weights == {"PD:T2": 1.0}


def test_a_private_run_asks_for_no_errors(folder: Path, tmp_path: Path) -> None:
    """Every site would refuse, and the run would be full of refusals."""
    shutil.copytree(folder / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "cells").glob("*/config.yaml"):
        path.write_text(path.read_text().replace("epsilon: null", "epsilon: 8.0"))
    nodes = [{"site": name, "site-config": str(tmp_path / "run" / "sites" / f"{name}.yaml")} for name in "ABC"]
    run_in_process(server_app, client_app, node_configs=nodes, run_config={"run-dir": str(tmp_path / "run")})
    assert {*kinds_of(tmp_path / "run")} == {"blend_solved"}
    assert not {event.cell: event for event in events_of(tmp_path / "run", BlendSolved)}["T1,T2:PD"].measured


def test_a_private_run_spends_the_budget_of_each_site_over_all_its_cells(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B and C train two cells each; A has no subject to train with. A blend weights its experts alike. From random
    weights no prior is solved, so what was planned for its step stays unspent, and a blend has no regression beside
    it."""
    private = ["--dp", "epsilon=8", "initial_weights=random", "personal=none"]
    assert study(folder, *private, out=tmp_path / "run") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert re.search(r"T1:PD: reference T1, 1 site; planned with epsilon 5\.\d\d; ", out)
    (printed,) = re.findall(r"all cells together at delta 1e-05: epsilon (B [\d.]+, C [\d.]+)", out)
    spent = {site: float(told) for site, told in (one.split() for one in printed.split(", "))}
    assert all(7 < told <= 8 for told in spent.values()), spent
    blends = {event.cell: event for event in events_of(tmp_path / "run", BlendSolved)}
    assert not blends["T1,T2:PD"].measured
    blend = summary_of(tmp_path / "run")["cells"]["T1,T2:PD"]
    assert blend["scores"]["unseen_sites"]
    assert blend["regression"] is None


def test_a_blend_has_flags_as_a_trained_cell_has(folder: Path) -> None:
    """Its figures are compared with those of its own regression, at sites that did not train it."""
    blends = {name: its for name, its in summary_of(folder / "run")["cells"].items() if its["how"] == "blend"}
    below = set()
    for name, its in blends.items():
        ((site, ours),), theirs = its["scores"]["unseen_sites"].items(), its["regression"]["unseen_sites"]
        if round(ours["psnr_db"], 2) < round(theirs[site]["psnr_db"], 2):
            below.add(name)
    assert below
    assert below == {name for name, its in blends.items() if "below regression on aligned" in "".join(its["flags"])}


def test_report_has_the_matrix_and_links_to_the_cells(folder: Path) -> None:
    page = (folder / "run" / "report.html").read_text()
    assert 'href="cells/T2-to-PD/report.html"' in page
    assert "to PD" in page
    assert "IXI10" not in page


@pytest.mark.slow
@pytest.mark.parametrize("folder_was_made", [True, False])
def test_an_interrupted_run_goes_on_with_the_cell_where_it_stood(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder_was_made: bool
) -> None:
    before, run = summary_of(folder / "run"), tmp_path / "run"
    shutil.copytree(folder / "run", run)
    for name in ("summary.json", "blends.json", "cells/T2-to-PD/summary.json"):
        (run / name).unlink()
    shutil.rmtree(run / "cells" / "T2-to-PD" / ("checkpoints" if folder_was_made else ""))
    (run / "cells" / "T2-to-PD" / "checkpoints").mkdir(parents=True, exist_ok=True)
    assert study(folder, "--resume", out=run) == 0
    assert summary_of(run)["cells"] == before["cells"]
    out = capsys.readouterr().out
    assert "cell 4 of 4: T2:PD" in out
    assert "cell 3 of 4" not in out
    assert "subjects with each modality" in out
    assert "T1,T2:PD: a blend of T1:PD and T2:PD" in out
    assert "T1:T2: nobody can make it" in out


def test_nothing_is_left_of_a_run_that_cannot_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ixi(tmp_path / "ixi", {"A": 1, "B": 1, "C": 1})
    assert study(tmp_path, "federation.offers={A: [T1], B: [T1,PD], C: [T2,PD]}") == 2
    assert "A offers T1; a site needs two of T1, T2, PD to take part" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
