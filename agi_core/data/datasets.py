"""Slices from the cache as tensors: random crops (in 3-D: patches) for training, whole slices for evaluation.

Reading is a copy out of the page cache and takes far less time than a training step on a CPU, so there is no loader
process; where a GPU trains, a thread reads ahead (`drawn`). Randomness comes from the caller's generator alone:
`TrainingSlices.draw` first draws all indices, then reads.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agi_core.config.schema import Task
from agi_core.data.cached_session import CachedSession, Float16Array
from agi_core.data.misalignment import Perturb, perturbation
from agi_core.data.slabs import SliceBox, around
from agi_core.errors import DataError
from agi_core.host.device import pinned, sent
from agi_core.scenario import parse_scenario

Crop = npt.NDArray[np.floating]
MIN_FOREGROUND = 0.05
"""Share of the head box's in-plane area that must be head, for a slice to be used in training and validation."""
WHOLE: SliceBox = slice(None), slice(None)
AHEAD = 2
"""Batches that `drawn` holds ready for a GPU."""


@dataclass(frozen=True)
class Batch:
    """Training crops in [0, 1], on the CPU.

    Attributes:
        images: the sources and behind them the target, (B, M + 1, h, w), or with n neighbours (B, M + 1, 2n + 1, h, w);
            in 3-D (B, M + 1, d, h, w). Float16 as in the cache, or float32 where a source was moved.
        neighbours: slices on either side that come with each slice.
    """

    images: Tensor
    neighbours: int = 0

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Sources (B, M, h, w), or with n neighbours (B, M, 2n + 1, h, w), and target (B, 1, h, w), float32 on the
        device; in 3-D (B, M, d, h, w) and (B, 1, d, h, w)."""
        return _sources_and_target(sent(self.images, device).float(), self.neighbours)


Draw = Callable[[torch.Generator, int], Batch]  # (generator, batch size) -> a training batch


def drawn(
    draw: Draw, generator: torch.Generator, batch_size: int, *, batches: int, device: torch.device
) -> Iterator[Batch]:
    """So many batches, each as `draw` gives it after the one before.

    On a CPU each is drawn when it is asked for. For another device a thread is AHEAD batches ahead, so that the device
    does not wait for it; the batches are the same.
    """
    if device.type == "cpu":
        yield from (draw(generator, batch_size) for _ in range(batches))
        return

    def draw_pinned() -> Batch:
        batch = draw(generator, batch_size)
        return replace(batch, images=pinned(batch.images, device))

    coming = deque[Future[Batch]]()
    with ThreadPoolExecutor(max_workers=1) as thread:
        for number in range(batches + AHEAD):
            if number < batches:
                coming.append(thread.submit(draw_pinned))
            if number >= AHEAD:
                yield coming.popleft().result()


@dataclass(frozen=True)
class WholeSlices:
    """Whole slices, nothing dropped.

    Attributes:
        sources: float32 (B, M, H, W) in [0, 1], or with n neighbours (B, M, 2n + 1, H, W).
        target: float32 (B, 1, H, W) in [0, 1].
        foreground: bool (B, 1, H, W).
        indices: slice number of each in its session.
    """

    sources: Tensor
    target: Tensor
    foreground: Tensor
    indices: tuple[int, ...]


class TrainingSlices:
    """The training slices of a site, and random crops of them.

    Args:
        sessions: training entries of the cache (cropped to the head box).
        crop: (h, w) of a crop in voxels, or (h, w, d) of a patch of d slices.
        neighbours: slices on either side that come with each slice of the sources; mirrored at the ends.
        perturb: moves a source of every slice drawn; see `agi_core.data.misalignment.perturbation`.

    Raises:
        DataError: no slice of the sessions qualifies.
    """

    def __init__(
        self,
        sessions: Sequence[CachedSession],
        *,
        crop: tuple[int, ...],
        neighbours: int = 0,
        perturb: Perturb | None = None,
    ) -> None:
        self.sessions = sessions
        self.crop = crop
        self.neighbours = neighbours
        self.perturb = perturb
        chosen = [np.flatnonzero(session.foreground_fraction >= MIN_FOREGROUND) for session in sessions]
        self.session_of_slice = np.repeat(np.arange(len(sessions)), [len(slices) for slices in chosen])
        self.slice_number = np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)
        self._slices_of: dict[str, list[int]] = {}
        for number, session in enumerate(self.session_of_slice.tolist()):
            self._slices_of.setdefault(sessions[session].subject_id, []).append(number)
        if sessions and not len(self):
            raise DataError(
                f"None of the slices of {len(sessions)} training sessions holds {MIN_FOREGROUND:.0%} of foreground. "
                "Add subjects, or check that the target is a head scan."
            )

    @classmethod
    def of(cls, task: Task, sessions: Sequence[CachedSession]) -> Self:
        """The slices of these sessions as a task trains on them."""
        perturb = perturbation(task.training.misalign, parse_scenario(task.scenario))
        return cls(sessions, crop=task.crop, neighbours=task.model.neighbours, perturb=perturb)

    def __len__(self) -> int:
        return len(self.slice_number)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Ids of the subjects that have a slice to draw, in the order of the sessions."""
        return tuple(self._slices_of)

    def draw(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw `batch_size` slices with replacement, and one crop in each, uniformly.

        In 3-D a voxel of the head is drawn in each slice, and the patch lies around it, as near as the ends of the head
        box allow: a small patch elsewhere in that box could miss the head. A slice, or a volume, smaller than the
        crop is centred in zeros. Two generators in one state give the same batch.
        """
        return self._draw(range(len(self)), generator, batch_size)

    def draw_subject(self, subject_id: str, generator: torch.Generator, batch_size: int) -> Batch:
        """Like `draw`, from the slices of one subject alone: one of `subjects`, with all its sessions."""
        return self._draw(self._slices_of[subject_id], generator, batch_size)

    def _draw(self, among: Sequence[int], generator: torch.Generator, batch_size: int) -> Batch:
        numbers = torch.randint(len(among), (batch_size,), generator=generator).tolist()
        corners = torch.rand((batch_size, 2), generator=generator, dtype=torch.float64).tolist()
        seeds = torch.randint(2**62, (batch_size,), generator=generator).tolist() if self.perturb else numbers
        rows, columns, *depth = self.crop
        slab = (2 * self.neighbours + 1,) if self.neighbours else ()
        shape = (batch_size, self.sessions[0].shape[1], *slab, *depth, rows, columns)
        images = torch.zeros(shape, dtype=torch.float32 if self.perturb else torch.float16)
        for crop, n, corner, seed in zip(images.numpy(), numbers, corners, seeds, strict=True):
            self._paste_crop(crop, among[n], corner, seed)
        return Batch(images, self.neighbours)

    def _paste_crop(self, crop: Crop, number: int, corner: tuple[float, float], seed: int) -> None:
        """Put the crop of slice `number` at `corner` (in [0, 1)^2 of the possible corners) into zeros: (M + 1, h, w),
        or with neighbours (M + 1, 2n + 1, h, w). Neighbours are moved alike: by what `seed` draws."""
        session, k = self.sessions[self.session_of_slice[number]], int(self.slice_number[number])
        if len(self.crop) == 3:
            self._paste_patch(crop, session, k, corner[0])
            return
        (height, width), (h, w) = session.shape[2:], self.crop
        start = int(corner[0] * (height - h + 1)), int(corner[1] * (width - w + 1))
        cut, paste = zip(*map(_overlap, (height, width), (h, w), start), strict=True)
        if self.perturb is None:
            crop[..., *paste] = _read_slab(session, k, self.neighbours, cut)
            return
        slab = _read_slab(session, k, self.neighbours).astype(np.float32)
        slices = np.moveaxis(slab, 1, 0) if self.neighbours else [slab]
        moved = [self.perturb(s, session.spacing_mm, np.random.default_rng(seed)) for s in slices]
        crop[..., *paste] = (np.stack(moved, axis=1) if self.neighbours else moved[0])[..., *cut]

    def _paste_patch(self, patch: Crop, session: CachedSession, k: int, part: float) -> None:
        """The same for the patch around a voxel of the head in slice `k` (`part` of them all): (M + 1, d, h, w)."""
        depth, _, height, width = session.shape
        h, w, d = self.crop
        head = np.argwhere(session.read_foreground(k))
        row, column = head[int(part * len(head))].tolist()
        start = k - d // 2, row - h // 2, column - w // 2
        cut, (in_d, in_h, in_w) = zip(*map(_overlap, (depth, height, width), (d, h, w), start), strict=True)
        patch[:, in_d, in_h, in_w] = session.read_block(*cut).swapaxes(0, 1)


def evenly_spaced(session: CachedSession, count: int) -> list[int]:
    """Numbers of at most `count` slices of a session, evenly through those that training would use."""
    usable = np.flatnonzero(session.foreground_fraction >= MIN_FOREGROUND)
    places = np.linspace(0, len(usable) - 1, count + 2)[1:-1].round().astype(int)
    return sorted({*usable[places].tolist()}) if len(usable) else []


def evaluation_slices(
    session: CachedSession, *, batch_size: int, indices: Sequence[int] | None = None, neighbours: int = 0
) -> Iterator[WholeSlices]:
    """Whole slices of a session in order (all, or those of `indices`), in batches; `neighbours` as in training."""
    numbers = range(session.shape[0]) if indices is None else indices
    for start in range(0, len(numbers), batch_size):
        batch = tuple(numbers[start : start + batch_size])
        images = whole_images(session, batch, neighbours=neighbours)
        foreground = torch.from_numpy(np.stack([session.read_foreground(k) for k in batch]))[:, None]
        yield WholeSlices(*_sources_and_target(images, neighbours), foreground, batch)


def whole_images(session: CachedSession, numbers: Sequence[int], *, neighbours: int = 0) -> Tensor:
    """These slices of all modalities, float32 (B, M + 1, H, W) in [0, 1], or slabs (B, M + 1, 2n + 1, H, W)."""
    return torch.from_numpy(np.stack([_read_slab(session, k, neighbours) for k in numbers])).float()


def _read_slab(session: CachedSession, k: int, neighbours: int, cut: SliceBox = WHOLE) -> Float16Array:
    """Slice `k`, or a part of it, (M + 1, H, W); with n neighbours on either side (M + 1, 2n + 1, H, W)."""
    numbers = around(k, depth=session.shape[0], neighbours=neighbours)
    first = min(numbers)
    block = session.read_block(slice(first, max(numbers) + 1), *cut)
    if len(block) < len(numbers):  # some are mirrored
        block = block[[j - first for j in numbers]]
    return block.swapaxes(0, 1) if neighbours else block[0]


def _sources_and_target(images: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """(B, M + 1, h, w), or slabs (B, M + 1, 2n + 1, h, w) -> the sources, and the target of the middle slices."""
    return images[:, :-1], images[:, -1:, neighbours] if neighbours else images[:, -1:]


def validation_subset(
    sessions: Sequence[CachedSession], *, limit: int = 64, volumes: bool = False
) -> list[tuple[CachedSession, tuple[int, ...]]]:
    """At most `limit` slices of a site, the same in every round: sessions in their order with slice numbers.

    Slices with at least `MIN_FOREGROUND` are lined up session after session and taken at even steps. `volumes` is for
    networks that see whole volumes whichever slices are scored: it takes sessions at even steps, all such slices of
    each, and one session at least unless `limit` is 0.
    """
    if volumes and sessions and limit:
        count = min(len(sessions), max(1, limit // max(session.shape[0] for session in sessions)))
        sessions = [sessions[n] for n in np.linspace(0, len(sessions) - 1, count).round().astype(int)]
        limit = sum(session.shape[0] for session in sessions)
    slices = [
        (number, int(k))
        for number, session in enumerate(sessions)
        for k in np.flatnonzero(session.foreground_fraction >= MIN_FOREGROUND)
    ]
    taken = np.unique(np.linspace(0, len(slices) - 1, min(limit, len(slices))).round().astype(int))
    chosen: dict[int, list[int]] = {}
    for index in taken:
        number, k = slices[index]
        chosen.setdefault(number, []).append(k)
    return [(sessions[number], tuple(ks)) for number, ks in chosen.items()]


def subset_of_each(
    sessions: Iterable[CachedSession], *, limit: int, volumes: bool = False
) -> dict[str, list[tuple[CachedSession, tuple[int, ...]]]]:
    """{subject id: at most `limit` of its slices, taken as `validation_subset` takes them}. No other subject has a say
    in which they are."""
    of_subject: dict[str, list[CachedSession]] = defaultdict(list)
    for session in sessions:
        of_subject[session.subject_id].append(session)
    return {subject_id: validation_subset(own, limit=limit, volumes=volumes) for subject_id, own in of_subject.items()}


def spacing_warning(spacings_mm: Mapping[str, tuple[float, float, float]]) -> str | None:
    """A sentence for the user if sites' spacings (right, anterior, superior) differ by more than 10 %, else None."""
    if not spacings_mm:
        return None
    values = np.array(list(spacings_mm.values()))
    if (values.max(axis=0) <= 1.1 * values.min(axis=0)).all():
        return None
    listed = "; ".join(f"{site} " + " x ".join(f"{mm:.2f}" for mm in spacing) for site, spacing in spacings_mm.items())
    return (
        f"The sites' voxel spacings differ by more than 10 % ({listed} mm). The model sees that as different head "
        "sizes; set grid.spacing_mm to resample every site alike."
    )


def _overlap(size: int, crop: int, start: int) -> tuple[slice, slice]:
    """Along one axis: what to cut out of `size` voxels, from `start` or as near as they allow, and where to paste it in
    `crop`."""
    if size >= crop:
        start = min(max(start, 0), size - crop)
        return slice(start, start + crop), slice(0, crop)
    start = (crop - size) // 2
    return slice(0, size), slice(start, start + size)
