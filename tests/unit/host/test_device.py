import pytest
import torch

from agi_core.errors import ConfigError
from agi_core.host.device import open_device


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cuda 0"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ConfigError, match=r"set device=.*auto"):
        open_device(device, threads=1)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_device_that_is_there(device: str) -> None:
    assert open_device(device, threads=1).type == ("cuda" if device == "auto" and torch.cuda.is_available() else "cpu")
    assert torch.get_num_threads() == 1
