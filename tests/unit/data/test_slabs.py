import numpy as np

from agi_core.data.slabs import around, source_box


def test_the_box_holds_every_non_zero_source_voxel() -> None:
    sources = np.zeros((3, 2, 10, 12), np.float32)
    sources[0, 1, 4, 7] = sources[2, 0, 6, 3] = 0.5
    assert source_box(sources) == (slice(4, 7), slice(3, 8))
    assert source_box(np.zeros((1, 2, 10, 12))) == (slice(0, 10), slice(0, 12))
    assert source_box(np.ones((1, 2, 10, 12))) == (slice(0, 10), slice(0, 12))


def test_neighbours_stay_within_the_volume() -> None:
    assert around(0, depth=1, neighbours=1) == [0, 0, 0]
    assert around(1, depth=2, neighbours=2) == [1, 0, 1, 0, 0]
    assert around(2, depth=9, neighbours=1) == [1, 2, 3]
