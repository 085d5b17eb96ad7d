import subprocess
import sys

import pytest

from agi_core.errors import ConfigError
from agi_core.models.model_config import ModelConfig, spatial_multiple


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(dims=3, widths=[64, 128, 256], routing_pool=4, interpolation="fourier", placement="encoder"),
        ModelConfig(attention=False),
        ModelConfig(rolling=False),
        ModelConfig(conv="plain", widths=[5, 7]),
    ],
)
def test_valid(config: ModelConfig) -> None:
    config.validate()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig(conv="carg"), r"model.conv is 'carg'; choose one of cagr, plain"),
        (ModelConfig(dims=4), r"model.dims is 4; choose one of 2, 3"),
        (ModelConfig(placement="none"), r"model.placement is 'none'; choose one of all, encoder, decoder"),
        (ModelConfig(interpolation="cubic"), r"model.interpolation is 'cubic'; choose one of linear, fourier"),
        (ModelConfig(widths=[]), r"model.widths is \[\]"),
        (ModelConfig(widths=[16, 0]), r"model.widths is \[16, 0\]"),
        (ModelConfig(groups=0), r"model.groups is 0"),
        (ModelConfig(groups=3), r"model.groups is 3, which does not divide 16 of model.widths \[16, 32, 64\]; choose"),
        (ModelConfig(max_offset=0.0), r"model.max_offset is 0.0"),
        (ModelConfig(max_offset=1.6), r"model.max_offset is 1.6"),
        (ModelConfig(max_offset=float("nan")), r"model.max_offset is nan"),
        (ModelConfig(routing_pool=0), r"model.routing_pool is 0"),
        (ModelConfig(attention=False, rolling=False), r"use model.conv=plain"),
    ],
)
def test_invalid(config: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.validate()


def test_spatial_multiple() -> None:
    assert [spatial_multiple(ModelConfig(widths=[8] * scales)) for scales in (1, 2, 3, 4)] == [1, 2, 4, 8]


def test_configuration_needs_no_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None
from agi_core.models.model_config import ModelConfig
ModelConfig().validate()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
