import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from agi_core.data.cached_session import open_entry
from tests.support.cache_entries import write_entry


@pytest.mark.parametrize("field", ["session", "grid_affine", "source_box", "doubts", "images"])
def test_an_entry_of_another_release_is_made_anew(tmp_path: Path, field: str) -> None:
    """One that lacks a field counts as absent, so `Preparation` writes it again."""
    path = tmp_path / "entry.safetensors"
    write_entry(path, np.zeros((2, 3, 4, 5), np.float32))
    with safe_open(path, "numpy") as file:
        entry = json.loads(file.metadata()["entry"])
    del entry[field]
    save_file(load_file(path), path, metadata={"entry": json.dumps(entry)})
    assert open_entry(path, subject_id="a") is None


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_broken_entry_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "entry.safetensors").write_bytes(content)
    assert open_entry(tmp_path / "entry.safetensors", subject_id="a") is None
    assert open_entry(tmp_path / "nowhere", subject_id="a") is None
