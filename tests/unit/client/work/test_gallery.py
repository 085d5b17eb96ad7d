"""The gallery of a site: its own test subjects, by an exported model and the last layer that belongs to it."""

import dataclasses
import json
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from agi_core.config.load import read_task
from agi_core.config.schema import RunConfig
from agi_core.export.archive import DESCRIPTION, WEIGHTS, write_archive
from agi_core.export.description import Description
from agi_core.network import Network
from agi_core.run.own_weights import write_own_weights
from client.__main__ import main
from client.site.file import DeployedSite, read_deployed_site
from client.site.opened import OpenSite
from client.work.gallery import SLICES, gallery
from tests.support.requests_by_hand import deployed_site, small_task


@pytest.fixture
def site(ixi_dir: Path, tmp_path: Path) -> DeployedSite:
    return read_deployed_site(deployed_site(tmp_path, ixi_dir))


@pytest.mark.parametrize("neighbours", [0, 1])
def test_it_shows_the_sites_test_subjects_with_the_common_and_its_own_last_layer(
    site: DeployedSite, tmp_path: Path, neighbours: int, capsys: pytest.CaptureFixture[str]
) -> None:
    task = read_task(small_task("model.alignment=affine", f"model.neighbours={neighbours}")[0])
    network = Network(task)
    described = Description.of(
        RunConfig(scenario=task.scenario, reference=task.reference, model=task.model, grid=task.grid),
        release=version("agi-fed"),
    )
    files = {DESCRIPTION: json.dumps(described.to_json()).encode(), WEIGHTS: save(network.weights)}
    write_archive(tmp_path / "first.zip", files)

    path, own = gallery(site, tmp_path / "first.zip")
    assert (path, own) == (Path(site.state_dir) / "gallery" / "first.html", False)
    page = path.read_text()
    tests = OpenSite(site).scans(task).subjects.test
    headings = re.findall(r"<h3>(\S+), slice (\d+) of 8</h3>", page)
    assert [name for name, _ in headings] == [subject.id for subject in tests for _ in range(SLICES)]
    assert [name for name in ("T1", "T2", "Real", "Global", "Own") if f"<b>{name}</b>" in page][-1] == "Global"
    assert "PATIENT DATA" in page
    assert "http:" not in re.sub(r'src="data:[^"]*"', "", page)

    other = dataclasses.replace(task, seed=task.seed + 1)
    heads = Path(site.state_dir) / "heads"
    own = {"head.bias": np.ones(1, np.float32)}
    write_own_weights(heads / "0.safetensors", own, network=Network(other))
    assert not gallery(site, tmp_path / "first.zip")[1]
    write_own_weights(heads / "1.safetensors", own, network=network)
    assert main(["--site-file", str(tmp_path / "Guys.yaml"), "--gallery", str(tmp_path / "first.zip")]) == 0
    said = capsys.readouterr().out
    assert "the common model, and with this site's own last layer" in " ".join(said.split())
    assert f"synthesize --model {tmp_path / 'first.zip'} --head {site.state_dir} --help\n" in said
    page = path.read_text()
    assert page.count("<b>Own</b>") == page.count("<b>Global</b>") == len(tests) * SLICES
    black, common = ({*re.findall(f'src="([^"]+)" alt="{name}: [^"]*"', page)} for name in ("Own", "Global"))
    assert black
    assert not black & common


def test_a_model_that_cannot_be_read_is_named(site: DeployedSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--site-file", f"{Path(site.state_dir).parent}/Guys.yaml", "--gallery", "none.zip"]) == 2
    assert "none.zip does not exist" in capsys.readouterr().err
