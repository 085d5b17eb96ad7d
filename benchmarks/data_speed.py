"""How much faster training data are since only the crop is read, and a head's holes are filled in one pass.

    python -m benchmarks.data_speed

Both ways take turns in one process, in CPU time, and a ratio is the median over the turns of (new / old). The old ways
are kept here. The results are compared too: they are equal, bit for bit.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from scipy import ndimage

from agi_core.data.datasets import Batch, TrainingSlices, _overlap
from agi_core.data.intensity import BoolArray, _fill_holes
from agi_core.data.slabs import around
from agi_core.network import CPU
from benchmarks.data_wait import open_entries, write_entries

TURNS, BATCH = 7, 8


class WholeSlicesFirst(TrainingSlices):
    """Reads and converts whole slices, one after the other, cuts the crop afterwards, and stacks the crops."""

    def _draw(self, among: Sequence[int], generator: torch.Generator, batch_size: int) -> Batch:
        numbers = torch.randint(len(among), (batch_size,), generator=generator).tolist()
        corners = torch.rand((batch_size, 2), generator=generator, dtype=torch.float64).tolist()
        crops = [self._read_crop(among[n], corner) for n, corner in zip(numbers, corners, strict=True)]
        return Batch(torch.from_numpy(np.stack(crops)), self.neighbours)

    def _read_crop(self, number: int, corner: tuple[float, float]) -> np.ndarray:
        session, k = self.sessions[self.session_of_slice[number]], int(self.slice_number[number])
        numbers = around(k, depth=session.shape[0], neighbours=self.neighbours)
        slab = np.stack([session.read_slice(j)[0] for j in numbers], axis=1).astype(np.float32)
        volumes = slab if self.neighbours else slab[:, 0]
        (height, width), (h, w) = volumes.shape[-2:], self.crop
        start = int(corner[0] * (height - h + 1)), int(corner[1] * (width - w + 1))
        cut, paste = zip(*map(_overlap, (height, width), (h, w), start), strict=True)
        crop = np.zeros((*volumes.shape[:-2], h, w), dtype=np.float32)
        crop[..., *paste] = volumes[..., *cut]
        return crop


def slice_by_slice(head: BoolArray) -> BoolArray:
    head = head.copy()
    for k in range(head.shape[2]):
        head[:, :, k] = ndimage.binary_fill_holes(head[:, :, k])
    return np.asarray(ndimage.binary_fill_holes(head))


def in_one_pass(head: BoolArray) -> BoolArray:
    return _fill_holes(_fill_holes(head, axes=(0, 1)), axes=(0, 1, 2))


def main() -> None:
    torch.set_num_threads(1)
    print("| work | old ms | new ms | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        entries = open_entries(write_entries(Path(folder), 4, shape=(20, 3, 288, 288)))
        for crop, neighbours in ((256, 1), (256, 0), (96, 1), (96, 0)):
            ways = [
                kind(entries, crop=(crop, crop), neighbours=neighbours) for kind in (WholeSlicesFirst, TrainingSlices)
            ]
            draws = [lambda way=way: way.draw(torch.Generator().manual_seed(0), BATCH).on(CPU) for way in ways]
            assert torch.equal(draws[0]()[0], draws[1]()[0])
            compare(f"draw of {BATCH} x {crop}x{crop}, neighbours={neighbours}", *draws)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (240, 240, 155)], indexing="ij"))
    radius = np.sqrt((grid**2).sum(axis=0)) + 0.1 * np.random.default_rng(0).random(grid.shape[1:])
    head = (radius < 0.9) & ~((radius > 0.5) & (radius < 0.6))
    assert (slice_by_slice(head) == in_one_pass(head)).all()
    compare("holes of a head of 240x240x155", lambda: slice_by_slice(head), lambda: in_one_pass(head))


def compare(name: str, old: Callable[[], object], new: Callable[[], object]) -> None:
    """Print a row."""
    turns = [(cpu_s(old), cpu_s(new)) for _ in range(TURNS)]
    before, after = (1000 * median(column) for column in zip(*turns, strict=True))
    ratio = median(b / a for a, b in turns)
    print(f"| {name} | {before:.1f} | {after:.1f} | **{ratio:.2f}** |", flush=True)


def cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
