"""Which rounds leave a slice behind. What they leave is seen in `tests/integration/test_run.py`."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from simulations.milestones import MILESTONES, drop_damaged, read_milestones


def test_the_longer_a_run_the_fewer_of_its_rounds() -> None:
    assert [round for round in range(1001) if round in MILESTONES] == [0, 1, 4, 16, 64, 256]


def test_damaged_slices_are_dropped(tmp_path: Path) -> None:
    assert drop_damaged(tmp_path) == []
    image, folder = np.zeros((2, 2), np.float16), tmp_path / "milestones"
    folder.mkdir()
    for round in (0, 1, 4):
        (folder / f"{round:05d}.safetensors").write_bytes(save({"Guys": image})[: -round or None])
    assert drop_damaged(tmp_path) == [1, 4]
    assert [*read_milestones(tmp_path, "Guys")] == [0]
