import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agi_core.errors import RunError
from agi_core.host import lock


def test_one_works_after_the_other(tmp_path: Path) -> None:
    done: list[str] = []

    def work(name: str) -> None:
        with lock.alone(tmp_path / "x.lock"):
            done.append(name)

    with ThreadPoolExecutor() as pool:
        with lock.alone(tmp_path / "x.lock"):
            second = pool.submit(work, "second")
            time.sleep(0.2)
            done.append("first")
        second.result(timeout=60)
    assert done == ["first", "second"]


def test_a_lock_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.mkdir()
    with pytest.raises(RunError, match=r"x\.lock cannot be written \(Is a directory\)"), lock.alone(path):
        pass
