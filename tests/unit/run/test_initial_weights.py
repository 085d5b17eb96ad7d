from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.errors import ConfigError
from agi_core.protocol import pack
from agi_core.run.checkpoint import TRAINED_LAYER, WEIGHTS, last_path, save_checkpoint
from agi_core.run.initial_weights import as_begun, initial_weights, keep


def config(*assignments: str, path: Path | str | None = None) -> RunConfig:
    overrides = {"initial_weights": None if path is None else str(path)}
    return load_config(None, overrides=overrides, assignments=["model.widths=[8,16]", *assignments])


def test_random_weights_follow_from_the_seed() -> None:
    first, again, other = (pack(initial_weights(config(f"seed={seed}"))).arrays["float32"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(first, pack(initial_weights(config("seed=1", path="random"))).arrays["float32"])


def test_a_file_gives_its_weights_whatever_the_seed(tmp_path: Path) -> None:
    path, weights = tmp_path / "start.safetensors", initial_weights(config("seed=5"))
    path.write_bytes(save(weights))
    loaded = initial_weights(config("seed=6", path=path))
    assert list(loaded) == list(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_a_checkpoint_gives_the_weights_of_its_model_as_it_was_trained(tmp_path: Path) -> None:
    weights = initial_weights(config("seed=5"))
    arrays = {f"{WEIGHTS}{name}": array for name, array in weights.items()} | {"velocity/x": np.zeros(1)}
    solved = {f"{WEIGHTS}head.bias": np.full_like(weights["head.bias"], 7)}
    arrays |= {**solved, f"{TRAINED_LAYER}head.bias": weights["head.bias"]}
    (tmp_path / "checkpoints").mkdir()
    save_checkpoint(tmp_path, round=3, arrays=arrays, state={})
    loaded = initial_weights(config("seed=6", path=last_path(tmp_path)))
    assert list(loaded) == list(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(loaded[name], array)


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ("model.widths=[8,32]", r"has shape \(8, 24, 3, 3\) there, \(8, 40, 3, 3\) here|has shape"),
        ("model.conv=plain", "is in the file only"),
        ("scenario=T1:PD", "has shape"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path: Path, settings: str, difference: str) -> None:
    path = tmp_path / "start.safetensors"
    path.write_bytes(save(initial_weights(config())))
    with pytest.raises(ConfigError, match=difference) as raised:
        initial_weights(config(settings, path=path))
    assert "pre-train with this run's scenario" in str(raised.value)


def test_other_dtypes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    path.write_bytes(save({name: array.astype(np.float64) for name, array in initial_weights(config()).items()}))
    with pytest.raises(ConfigError, match="other dtypes"):
        initial_weights(config(path=path))


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.safetensors cannot be read: No such file"):
        initial_weights(config(path=tmp_path / "absent.safetensors"))
    (tmp_path / "broken").write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match="broken is no safetensors file"):
        initial_weights(config(path=tmp_path / "broken"))


def test_a_file_with_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    weights = initial_weights(config())
    weights["head.bias"][:] = np.inf
    (tmp_path / "start.safetensors").write_bytes(save(weights))
    with pytest.raises(ConfigError, match=r"head\.bias holds a number that is not finite"):
        initial_weights(config(path=tmp_path / "start.safetensors"))


def test_a_run_keeps_its_file_whatever_becomes_of_it(tmp_path: Path) -> None:
    path, weights = tmp_path / "start.safetensors", initial_weights(config("seed=5"))
    path.write_bytes(save(weights))
    its = config("seed=6", path=path)
    keep(tmp_path / "run", its)
    path.unlink()
    for name, array in initial_weights(as_begun(its, tmp_path / "run")).items():
        np.testing.assert_array_equal(array, weights[name])
    keep(tmp_path / "random", config())
    assert as_begun(config(), tmp_path / "random") == config()
    assert not (tmp_path / "random").exists()
