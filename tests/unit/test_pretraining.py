"""Pre-training on a small public folder and on built-in data, and its command."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from torch import nn

from agi_core.__main__ import main
from agi_core.config.load import load_config, task_hash, task_json
from agi_core.data.phantom.built_in import PUBLIC, with_built_in_data
from agi_core.data.phantom.tree import VERSION
from agi_core.data.scans import Scans, discover
from agi_core.errors import ConfigError
from agi_core.pretraining import PRETRAINING
from agi_core.run.initial_weights import initial_weights
from tests.support.small_data import SMALL


def test_the_command_writes_weights_that_a_run_starts_from(
    ixi_dir: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "start.safetensors"
    settings = [*SMALL, f"data.dir={ixi_dir}", f"data.cache_dir={cache_dir}"]
    assert main(["pretrain", "--out", str(path), *settings]) == 0
    assert f"initial_weights={path}" in capsys.readouterr().out
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    text = task_json(load_config(None, overrides={}, assignments=settings, defaults=PRETRAINING).task)
    assert metadata == {"task": text, "task_hash": task_hash(text)}
    config = load_config(None, overrides={"initial_weights": str(path)}, assignments=SMALL)
    random = initial_weights(load_config(None, overrides={}, assignments=SMALL))
    trained = initial_weights(config)
    assert all(np.isfinite(array).all() and (array != random[name]).any() for name, array in trained.items())


def test_pretraining_is_compiled_where_it_is_asked(
    ixi_dir: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: asked.append(module))
    monkeypatch.setenv("CXX", sys.executable)  # a compiler that is there
    settings = [*SMALL, f"data.dir={ixi_dir}", f"data.cache_dir={cache_dir}", "compile=true"]
    assert main(["pretrain", "--out", str(tmp_path / "w.safetensors"), *settings]) == 0
    assert len(asked) == 1


def test_the_same_settings_give_the_same_weights(ixi_dir: Path, cache_dir: Path, tmp_path: Path) -> None:
    settings = [*SMALL, f"data.dir={ixi_dir}", f"data.cache_dir={cache_dir}"]
    for name in ("a.safetensors", "b.safetensors"):
        assert main(["pretrain", "--out", str(tmp_path / name), *settings]) == 0
    first, again = (load_file(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])


def test_privacy_is_not_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--out", str(tmp_path / "w.safetensors"), "privacy.epsilon=8"]) == 2
    assert "is for public data only" in capsys.readouterr().err


@pytest.mark.parametrize(("layout", "scenario"), [("ixi", "T1,T2:PD"), ("brats", "t1n,t1c,t2w:t2f")])
def test_built_in_public_data_is_made_once(layout: str, scenario: str, tmp_path: Path) -> None:
    assignments = [f"data.layout={layout}", "data.phantom_sites=PublicA:1"]
    config = with_built_in_data(
        load_config(None, overrides={}, assignments=assignments, defaults=PRETRAINING), PUBLIC, work_dir=tmp_path
    )
    data_dir = Path(str(config.data.dir))
    made = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.nii.gz")}
    assert f"public{VERSION}-" in str(config.data.dir)  # data of an earlier release may stand beside it
    assert with_built_in_data(config, PUBLIC, work_dir=tmp_path) == config
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.nii.gz")} == made
    shutil.rmtree(data_dir)
    assert with_built_in_data(config, PUBLIC, work_dir=tmp_path) == config  # as a run that goes on after `make clean`
    assert {*data_dir.rglob("*.nii.gz")} == {*made}
    found = discover(Scans.of(config.data), scenario.replace(":", ",").split(","))
    assert [subject.site for subject in found.subjects] == ["PublicA"]


@pytest.mark.parametrize(
    ("assignment", "cause"),
    [
        ("data.layout=bids", "name a folder of scans"),
        ("data.sites=table.csv", "name their folder with data.dir"),
        ("data.unseen_anatomy=ms20", "the data has colin27, icbm2009a, ms07, ms19; choose one of them"),
    ],
)
def test_what_built_in_data_is_not_for(tmp_path: Path, assignment: str, cause: str) -> None:
    config = load_config(None, overrides={}, assignments=[assignment], defaults=PRETRAINING)
    with pytest.raises(ConfigError, match=cause):
        with_built_in_data(config, PUBLIC, work_dir=tmp_path)
    assert not list(tmp_path.iterdir())
