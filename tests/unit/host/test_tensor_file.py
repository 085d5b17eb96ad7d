"""A safetensors file is the same, mapped or read."""

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import save, save_file

from agi_core.host import tensor_file
from agi_core.host.tensor_file import open_tensors, tensors_in

SHAPE = (5, 3, 4, 6)
INDICES = st.one_of(st.integers(-5, 4), st.tuples(st.slices(5), st.slices(3), st.slices(4), st.slices(6)), st.slices(5))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("tensors") / "a.safetensors"
    arrays: dict[str, Any] = {
        "volumes": rng.random(SHAPE).astype(np.float16),
        "foreground": rng.random((5, 4)) > 0.5,
        "counts": np.arange(7, dtype=np.int64),
    }
    save_file(arrays, path, metadata={"entry": '{"session": "1"}'})
    return path


def refuse_to_map(path: Path, **_: object) -> NoReturn:
    """What safe_open raises where mmap answers ENODEV."""
    raise OSError(f"{os.strerror(errno.ENODEV)} (os error {errno.ENODEV}): {path}")


@given(index=INDICES)
@settings(deadline=None)
def test_what_is_read_is_what_is_mapped(path: Path, index: Any) -> None:
    with pytest.MonkeyPatch.context() as patch, open_tensors(path) as mapped:
        patch.setattr(tensor_file, "safe_open", refuse_to_map)
        with open_tensors(path) as unmapped:
            assert unmapped.metadata() == mapped.metadata()
            assert sorted(unmapped.keys()) == sorted(mapped.keys())
            assert unmapped.get_slice("volumes").get_shape() == list(SHAPE)
            whole = mapped.get_tensor("volumes")
            got = unmapped.get_slice("volumes")[index]
            np.testing.assert_array_equal(got, whole[index])
            assert got.dtype == np.float16
            assert got.flags.writeable
            for name in ("volumes", "foreground", "counts"):
                tensor = unmapped.get_tensor(name)
                np.testing.assert_array_equal(tensor, mapped.get_tensor(name))
                assert tensor.dtype == mapped.get_tensor(name).dtype


@pytest.mark.parametrize("size", [0, 4, 20, 300, 700])
def test_a_damaged_file_is_named_so(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(tensor_file, "safe_open", refuse_to_map)
    damaged = tmp_path / "b.safetensors"
    damaged.write_bytes(path.read_bytes()[:size])
    with pytest.raises(SafetensorError), open_tensors(damaged) as file:
        file.get_tensor("volumes")


@pytest.mark.parametrize("size", [0, 4, 20, 300, 700])
def test_a_damaged_content_is_named_so(path: Path, size: int) -> None:
    with pytest.raises(SafetensorError):
        tensors_in(path.read_bytes()[:size])


def test_the_content_of_a_file_is_what_is_mapped(path: Path) -> None:
    metadata, arrays = tensors_in(path.read_bytes())
    with open_tensors(path) as file:
        assert metadata == file.metadata()
        assert sorted(arrays) == sorted(file.keys())
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, file.get_tensor(name))
    assert tensors_in(save({})) == ({}, {})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_tensors(tmp_path / "none.safetensors"):
        pass
