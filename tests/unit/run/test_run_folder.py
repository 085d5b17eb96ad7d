import json
from pathlib import Path

import pytest

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.errors import RunError
from agi_core.run import run_folder
from agi_core.run.run_folder import Environment


@pytest.fixture
def config() -> RunConfig:
    return load_config(None, overrides={"rounds": 7, "data.dir": "scans"}, assignments=["model.widths=[8,16]"])


def test_a_new_run_holds_its_configuration(tmp_path: Path, config: RunConfig) -> None:
    run_folder.create(tmp_path / "a" / "run", config)
    assert run_folder.open_existing(tmp_path / "a" / "run") == config
    environment = run_folder.read_environment(tmp_path / "a" / "run")
    assert environment == run_folder.environment(config)
    assert environment.threads == 1
    assert set(environment.packages) >= {"torch", "flwr", "monai", "agi-fed"}


def test_an_empty_folder_will_do_and_a_full_one_will_not(tmp_path: Path, config: RunConfig) -> None:
    (tmp_path / "run").mkdir()
    run_folder.create(tmp_path / "run", config)
    with pytest.raises(RunError, match="is not empty"):
        run_folder.create(tmp_path / "run", config)


def test_check_new_makes_nothing(tmp_path: Path) -> None:
    run_folder.check_new(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="choose another --out"):
            run_folder.check_new(path)


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.yaml is missing"):
        run_folder.open_existing(tmp_path)


def test_an_environment_that_was_not_noted_is_unknown(tmp_path: Path) -> None:
    assert run_folder.read_environment(tmp_path) == Environment()
    (tmp_path / "environment.json").write_text('{"python": "3.11.2", "weather": "fine"}')
    assert run_folder.read_environment(tmp_path) == Environment(python="3.11.2")


def test_splits_are_of_simulations_only(tmp_path: Path) -> None:
    assert run_folder.read_splits(tmp_path) == {}
    splits = {"Guys": {"train": ["IXI001"], "validation": [], "test": ["IXI002"]}}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    assert run_folder.read_splits(tmp_path) == splits
    (tmp_path / "splits.json").write_text("{")
    with pytest.raises(RunError, match=r"splits\.json is damaged"):
        run_folder.read_splits(tmp_path)
