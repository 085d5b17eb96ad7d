"""Small real trees, written once per test session, and a run on them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.privacy.noise import InsecureNoiseWarning, NoiseSource, insecure_seeded_noise
from tests.support.small_data import SMALL, write_ixi


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def seeded() -> Callable[[int], NoiseSource]:
    """Repeatable privacy noise, with its warning taken."""

    def source(seed: int) -> NoiseSource:
        with pytest.warns(InsecureNoiseWarning):
            return insecure_seeded_noise(seed)

    return source


@pytest.fixture(scope="session")
def ixi_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals with 5, 4 and 3 subjects."""
    return write_ixi(tmp_path_factory.mktemp("data") / "ixi", {"Guys": 5, "HH": 4, "IOP": 3})


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small_config(ixi_dir: Path, cache_dir: Path) -> RunConfig:
    """A whole run on `ixi_dir` that takes a second."""
    overrides = {"data.dir": str(ixi_dir), "data.cache_dir": str(cache_dir), "clients": 3}
    return load_config(None, overrides=overrides, assignments=SMALL)
