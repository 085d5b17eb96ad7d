import os
from pathlib import Path

import numpy as np
import pytest

from agi_core.data.cache_quota import cached_bytes, drop_oldest
from tests.support.cache_entries import write_entry


@pytest.fixture
def entries(tmp_path: Path) -> list[Path]:
    """Four of one size, the first used last."""
    paths = [tmp_path / folder / f"{n}.safetensors" for folder in ("train", "whole") for n in range(2)]
    for age, path in enumerate(paths):
        write_entry(path, np.zeros((2, 3, 16, 16), np.float32))
        os.utime(path, (1000 - age, 1000 - age))
    return paths


def test_what_was_not_used_for_longest_goes_first(entries: list[Path], tmp_path: Path) -> None:
    size = cached_bytes(entries[:1])
    assert drop_oldest(tmp_path, most_bytes=4 * size, keep=()) == 0
    assert drop_oldest(tmp_path, most_bytes=3 * size - 1, keep=()) == 2
    assert [path.exists() for path in entries] == [True, True, False, False]
    assert cached_bytes(entries) == 2 * size


def test_what_is_in_use_stays(entries: list[Path], tmp_path: Path) -> None:
    assert drop_oldest(tmp_path, most_bytes=0, keep=entries[2:]) == 2
    assert [path.exists() for path in entries] == [False, False, True, True]
