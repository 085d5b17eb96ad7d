from collections.abc import Iterator

import pytest
import torch

from agi_core.errors import ConfigError
from agi_core.host.device import open_device


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_device_with_its_threads() -> None:
    assert open_device("cpu", threads=2) == torch.device("cpu")
    assert torch.get_num_threads() == 2


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert open_device("auto", threads=1).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "cuda 0"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"device={name}.* set device=.*auto"):
        open_device(name, threads=1)
