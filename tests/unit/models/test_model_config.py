import subprocess
import sys

import pytest

from agi_core.errors import ConfigError
from agi_core.models.model_config import ModelConfig, spatial_multiple


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(dims=3, widths=(64, 128, 256), routing_pool=4, interpolation="fourier", placement="encoder"),
        ModelConfig(attention=False),
        ModelConfig(rolling=False),
        ModelConfig(conv="plain", widths=(5, 7)),
        ModelConfig(conv="plain", widths=(5,), alignment="dense", neighbours=2, stem=3),
        ModelConfig(dims=3, alignment="global", stem=8, shift="open", shuffle=False),
        ModelConfig(shift="none"),
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
        (ModelConfig(widths=()), r"model.widths is \[\]"),
        (ModelConfig(widths=(16, 0)), r"model.widths is \[16, 0\]"),
        (ModelConfig(groups=0), r"model.groups is 0"),
        (ModelConfig(groups=3), r"model.groups is 3, which does not divide 16 of model.widths \[16, 32, 64\]; choose"),
        (ModelConfig(max_offset=0.0), r"model.max_offset is 0.0"),
        (ModelConfig(max_offset=1.6), r"model.max_offset is 1.6"),
        (ModelConfig(max_offset=float("nan")), r"model.max_offset is nan"),
        (ModelConfig(routing_pool=0), r"model.routing_pool is 0"),
        (ModelConfig(alignment="rigid"), r"model.alignment is 'rigid'; choose one of none, global, affine, dense"),
        (ModelConfig(neighbours=-1), r"model.neighbours is -1"),
        (ModelConfig(neighbours=9, alignment="affine"), r"model.neighbours is 9; it must be from 0 to 8"),
        (ModelConfig(neighbours=1), r"set model.alignment"),
        (ModelConfig(neighbours=1, alignment="affine", dims=3), r"leave model.dims at 2"),
        (ModelConfig(stem=-1), r"model.stem is -1"),
        (ModelConfig(adapters=-1), r"model.adapters is -1"),
        (ModelConfig(stem=6), r"model.stem is 6, which model.groups 4 does not divide"),
        (ModelConfig(shift="linear"), r"model.shift is 'linear'; choose one of circular, open, none"),
        (ModelConfig(shift="none", scaling=False), r"set model.rolling=false"),
        (ModelConfig(shift="open", interpolation="fourier"), r"model.shift=open is no roll"),
        (ModelConfig(attention=False, rolling=False), r"use model.conv=plain"),
    ],
)
def test_invalid(config: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.validate()


def test_spatial_multiple() -> None:
    assert [spatial_multiple(ModelConfig(widths=(8,) * scales)) for scales in (1, 2, 3, 4)] == [1, 2, 4, 8]


def test_a_configuration_is_a_key() -> None:
    assert {ModelConfig(widths=(4, 8)): "small"}[ModelConfig(widths=(4, 8))] == "small"


def test_configuration_needs_no_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None
from agi_core.models.model_config import ModelConfig
ModelConfig().validate()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
