import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.errors import DataError, RunError
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


def test_a_place_that_cannot_be_a_run_folder(tmp_path: Path, config: RunConfig) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="choose another --out"):
            run_folder.create(path, config)
    with pytest.raises(RunError, match="choose another --out"):
        run_folder.unused(tmp_path / "file")


def test_of_several_that_want_one_folder_one_gets_it(tmp_path: Path, config: RunConfig) -> None:
    def create(_: int) -> str:
        barrier.wait()
        try:
            run_folder.create(tmp_path / "run", config)
        except RunError as error:
            return str(error)
        return ""

    barrier = Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        refusals = list(pool.map(create, range(8)))
    assert refusals.count("") == 1
    assert sum("is not empty" in text for text in refusals) == 7
    assert run_folder.open_existing(tmp_path / "run") == config


def test_each_of_several_in_one_second_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: run_folder.unused(tmp_path / "runs"), range(24)))
    assert len(set(folders)) == 24
    assert sorted(folders) == sorted((tmp_path / "runs").iterdir())
    assert all(re.match(r"\d{4}-\d\d-\d\d-\d{6}(-\d+)?$", folder.name) for folder in folders)


def test_a_run_that_fails_as_it_begins_leaves_nothing(tmp_path: Path, config: RunConfig) -> None:
    begun = run_folder.begun(tmp_path / "run", config)
    begun.__enter__()
    assert run_folder.open_existing(tmp_path / "run") == config
    error = DataError("broken scan")
    assert not begun.__exit__(DataError, error, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("working", [True, False])
def test_a_users_empty_folder_is_left_as_it_was(
    tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch, working: bool
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine" if working else tmp_path)
    with pytest.raises(DataError, match="broken scan"), run_folder.begun(Path("." if working else "mine"), config):
        raise DataError("broken scan")
    assert [*tmp_path.rglob("*")] == [tmp_path / "mine"]


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
