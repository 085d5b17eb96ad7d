"""Crops and whole slices from hand-made cache entries."""

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from agi_core.config.schema import MisalignConfig
from agi_core.data import datasets
from agi_core.data.cached_session import CachedSession, open_entry
from agi_core.data.misalignment import perturbation
from agi_core.errors import DataError
from agi_core.network import CPU
from agi_core.scenario import Scenario


def make_entry(path: Path, *, shape: tuple[int, int, int, int], fraction: list[float]) -> CachedSession:
    """An entry in which each voxel's value tells where it is: slice/64, row/64, column/64 in modalities 0, 1, 2."""
    d, m, h, w = shape
    position = np.stack(np.broadcast_arrays(*np.ogrid[1 : d + 1, 1 : h + 1, 1 : w + 1]), axis=1) / 64
    foreground = np.zeros((d, h, w), dtype=np.bool_)
    foreground[:, : h // 2] = True
    entry: dict[str, Any] = {
        "session": "",
        "grid_shape": [w, h, d],
        "grid_affine": np.eye(4).tolist(),
        "foreground_fraction": fraction,
        "source_box": [[0, h], [0, w]],
        "doubts": [],
        "images": {},
    }
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "volumes": np.ascontiguousarray(position[:, :m], dtype=np.float16),
        "foreground": foreground,
    }
    save_file(tensors, path, metadata={"entry": json.dumps(entry)})
    opened = open_entry(path, subject_id=path.stem)
    assert opened is not None
    return opened


@pytest.fixture
def sessions(tmp_path: Path) -> list[CachedSession]:
    return [
        make_entry(tmp_path / "a", shape=(4, 3, 20, 30), fraction=[0.04, 0.05, 0.6, 0.01]),
        make_entry(tmp_path / "b", shape=(3, 3, 10, 12), fraction=[0.5, 0.5, 0.5]),
    ]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_slices_with_little_foreground_are_not_drawn(sessions: list[CachedSession]) -> None:
    slices = datasets.TrainingSlices(sessions, crop=(8, 8))
    assert len(slices) == 5
    assert slices.session_of_slice.tolist() == [0, 0, 1, 1, 1]
    assert slices.slice_number.tolist() == [1, 2, 0, 1, 2]


def test_one_subjects_batch_holds_its_slices_alone(tmp_path: Path, sessions: list[CachedSession]) -> None:
    again = make_entry(tmp_path / "visit2", shape=(6, 3, 20, 30), fraction=[0, 0, 0, 0, 0.5, 0.5])
    empty = make_entry(tmp_path / "c", shape=(1, 3, 20, 30), fraction=[0.0])
    visits = [*sessions, dataclasses.replace(again, subject_id="a"), empty]
    slices = datasets.TrainingSlices(visits, crop=(8, 8))
    assert slices.subjects == ("a", "b")
    for subject, own in (("a", {2, 3, 5, 6}), ("b", {1, 2, 3})):  # counted from 1, over both visits
        sources, _ = slices.draw_subject(subject, generator(1), 100).on(CPU)
        assert sources.shape == (100, 2, 8, 8)
        assert set((64 * sources[:, 0]).flatten().tolist()) == own


def test_no_usable_slice_is_an_error(sessions: list[CachedSession]) -> None:
    air = [dataclasses.replace(s, foreground_fraction=np.full(s.shape[0], 0.04, np.float32)) for s in sessions]
    with pytest.raises(DataError, match="None of the slices of 2 training sessions holds 5%"):
        datasets.TrainingSlices(air, crop=(8, 8))


def test_of_nobody_there_are_no_slices() -> None:
    """As at a private site where the last subject with a modality is gone."""
    nobody = datasets.TrainingSlices([], crop=(8, 8))
    assert (len(nobody), [*nobody.subjects]) == (0, [])


def test_a_batch_holds_aligned_crops_inside_the_slices(sessions: list[CachedSession]) -> None:
    sources, target = datasets.TrainingSlices(sessions[:1], crop=(8, 6)).draw(generator(0), 200).on(CPU)
    assert sources.shape == (200, 2, 8, 6)
    assert target.shape == (200, 1, 8, 6)
    assert sources.dtype == target.dtype == torch.float32
    k, row, column = (64 * x for x in (sources[:, 0], sources[:, 1], target[:, 0]))
    assert set(k.flatten().tolist()) == {2, 3}  # counted from 1
    assert (k == k[:, :1, :1]).all()
    torch.testing.assert_close(row, row[:, :1, :1] + torch.arange(8)[:, None].expand(200, 8, 6))
    torch.testing.assert_close(column, column[:, :1, :1] + torch.arange(6).expand(200, 8, 6))
    # 200 draws of 13 rows and 25 columns: every possible corner is reached
    assert set(row[:, 0, 0].tolist()) == set(range(1, 14))
    assert set(column[:, 0, 0].tolist()) == set(range(1, 26))


@pytest.mark.parametrize(("crop", "neighbours"), [((8, 6), 0), ((8, 6), 1), ((8, 6, 4), 0)])
def test_a_batch_is_one_array_in_the_precision_of_the_cache(
    sessions: list[CachedSession], crop: tuple[int, ...], neighbours: int
) -> None:
    """A device is sent it as it is, and makes float32 of it."""
    batch = datasets.TrainingSlices(sessions[:1], crop=crop, neighbours=neighbours).draw(generator(0), 5)
    assert batch.images.dtype == torch.float16
    assert batch.images.is_contiguous()
    sources, target = batch.on(CPU)
    assert sources.dtype == target.dtype == torch.float32
    assert torch.equal(sources, batch.images[:, :2].float())
    middle = batch.images[:, 2:, neighbours] if neighbours else batch.images[:, 2:]
    assert torch.equal(target, middle.float())


def test_small_slices_are_centred_in_zeros(sessions: list[CachedSession]) -> None:
    _, target = datasets.TrainingSlices(sessions[1:], crop=(16, 16)).draw(generator(0), 3).on(CPU)
    target = target[:, 0] * 64
    torch.testing.assert_close(target[:, 3:13, 2:14], torch.arange(1.0, 13).expand(3, 10, 12))
    target[:, 3:13, 2:14] = 0
    assert not target.any()


@given(seed=st.integers(0, 2**40), batch_size=st.integers(1, 5), crop=st.sampled_from([(8, 8), (8, 8, 3)]))
@settings(max_examples=20, deadline=None)
def test_the_generator_alone_decides(
    tmp_path_factory: pytest.TempPathFactory, seed: int, batch_size: int, crop: tuple[int, ...]
) -> None:
    entry = make_entry(tmp_path_factory.mktemp("d") / "a", shape=(4, 3, 20, 30), fraction=[1, 1, 1, 1])
    slices = datasets.TrainingSlices([entry], crop=crop)
    ours, theirs = generator(seed), generator(seed)
    first = [slices.draw(ours, batch_size).images for _ in range(2)]
    torch.manual_seed(0)
    np.random.seed(0)
    second = [slices.draw(theirs, batch_size).images for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("batches", [0, 1, 5])
def test_batches_that_are_drawn_ahead_are_the_same(sessions: list[CachedSession], batches: int) -> None:
    slices = datasets.TrainingSlices(sessions, crop=(8, 8))
    on_cpu, on_gpu = (
        [
            batch.images
            for batch in datasets.drawn(
                slices.draw, torch.Generator().manual_seed(1), 3, batches=batches, device=torch.device(name)
            )
        ]
        for name in ("cpu", "meta")  # meta is some device other than the CPU
    )
    assert len(on_cpu) == len(on_gpu) == batches
    assert all(map(torch.equal, on_cpu, on_gpu))


@pytest.mark.parametrize(("device", "drawn"), [("cpu", 1), ("meta", 1 + datasets.AHEAD)])
def test_a_cpu_draws_when_it_is_asked_and_another_device_is_not_waited_for(device: str, drawn: int) -> None:
    numbers: list[int] = []
    as_many = threading.Event()

    def draw(generator: torch.Generator, size: int) -> datasets.Batch:
        numbers.append(len(numbers))
        if len(numbers) == drawn:
            as_many.set()
        return datasets.Batch(torch.zeros(size, 3, 8, 8))

    batches = datasets.drawn(draw, torch.Generator(), 2, batches=5, device=torch.device(device))
    next(batches)
    assert as_many.wait(timeout=60)
    assert len(numbers) == drawn
    assert len([*batches]) == 4
    assert len(numbers) == 5


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_error_of_a_draw_reaches_who_asked(device: str) -> None:
    def draw(generator: torch.Generator, size: int) -> datasets.Batch:
        raise DataError("the cache is gone")

    with pytest.raises(DataError, match="the cache is gone"):
        next(datasets.drawn(draw, torch.Generator(), 2, batches=3, device=torch.device(device)))


def test_patches_are_aligned_boxes_with_head(tmp_path: Path) -> None:
    entry = make_entry(tmp_path / "a", shape=(12, 3, 20, 30), fraction=[0, 0] + [1] * 10)
    sources, target = datasets.TrainingSlices([entry], crop=(8, 6, 4)).draw(generator(0), 400).on(CPU)
    assert sources.shape == (400, 2, 4, 8, 6)
    assert target.shape == (400, 1, 4, 8, 6)
    k, row, column = (64 * x for x in (sources[:, 0], sources[:, 1], target[:, 0]))
    torch.testing.assert_close(k, k[:, :1, :1, :1] + torch.arange(4)[:, None, None].expand_as(k))
    torch.testing.assert_close(row, row[:, :1, :1, :1] + torch.arange(8)[:, None].expand_as(k))
    torch.testing.assert_close(column, column[:, :1, :1, :1] + torch.arange(6).expand_as(k))
    # around voxels of slices 2 to 11, rows 0 to 9 (the head) and columns 0 to 29, kept inside; values count from 1
    assert set(k[:, 0, 0, 0].tolist()) == set(range(1, 10))
    assert set(row[:, 0, 0, 0].tolist()) == set(range(1, 7))
    assert set(column[:, 0, 0, 0].tolist()) == set(range(1, 26))


def test_thin_volumes_are_centred_in_zeros(sessions: list[CachedSession]) -> None:
    sources, _ = datasets.TrainingSlices(sessions[1:], crop=(16, 16, 8)).draw(generator(0), 3).on(CPU)
    k = sources[:, 0] * 64
    torch.testing.assert_close(k[:, 2:5, 3:13, 2:14], torch.arange(1.0, 4)[:, None, None].expand(3, 3, 10, 12))
    k[:, 2:5, 3:13, 2:14] = 0
    assert not k.any()


def test_one_source_is_moved_and_nothing_else_changes(sessions: list[CachedSession]) -> None:
    perturb = perturbation(MisalignConfig("T2", "translation", 3), Scenario(("T1", "T2"), "PD"))
    still = datasets.TrainingSlices(sessions[:1], crop=(16, 16)).draw(generator(0), 100).images.float()
    slices = datasets.TrainingSlices(sessions[:1], crop=(16, 16), perturb=perturb)
    moved = slices.draw(generator(0), 100).images
    assert torch.equal(moved[:, [0, 2]], still[:, [0, 2]])
    rows = 64 * (still[:, 1] - moved[:, 1]).flatten(1).median(dim=1).values  # edges are mirrored
    assert set(rows.round(decimals=3).tolist()) == set(range(-3, 4))
    assert torch.equal(slices.draw(generator(0), 100).images, moved)


def test_neighbours_come_with_each_slice(sessions: list[CachedSession]) -> None:
    """Slice numbers count from 1; they are mirrored at the ends, and the target is the middle slice's."""
    (batch,) = datasets.evaluation_slices(sessions[0], batch_size=4, neighbours=1)
    assert batch.sources.shape == (4, 2, 3, 20, 30)
    assert (64 * batch.sources[:, 0, :, 0, 0]).tolist() == [[2, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 3]]
    assert batch.target.shape == batch.foreground.shape == (4, 1, 20, 30)
    sources, target = datasets.TrainingSlices(sessions[:1], crop=(8, 32), neighbours=2).draw(generator(0), 50).on(CPU)
    assert sources.shape == (50, 2, 5, 8, 32)
    assert target.shape == (50, 1, 8, 32)
    slices = {tuple(slab) for slab in (64 * sources[:, 0, :, 0, 1]).tolist()}
    assert slices == {(2, 1, 2, 3, 4), (1, 2, 3, 4, 3)}
    torch.testing.assert_close(64 * target[:, 0, :, 1:31], torch.arange(1.0, 31).expand(50, 8, 30))


def test_neighbours_are_moved_alike(sessions: list[CachedSession]) -> None:
    perturb = perturbation(MisalignConfig("T2", "translation", 3), Scenario(("T1", "T2"), "PD"))
    alone, slabs = (
        datasets.TrainingSlices(sessions[:1], crop=(16, 16), neighbours=n, perturb=perturb)
        .draw(generator(0), 20)
        .on(CPU)
        for n in (0, 1)
    )
    for neighbour in slabs[0][:, 1].unbind(1):  # T2 holds the row, which is the same in every slice
        assert torch.equal(neighbour, alone[0][:, 1])
    assert torch.equal(slabs[1], alone[1])


def test_evaluation_keeps_every_slice_whole(sessions: list[CachedSession]) -> None:
    batches = list(datasets.evaluation_slices(sessions[0], batch_size=3))
    assert [batch.indices for batch in batches] == [(0, 1, 2), (3,)]
    assert batches[0].sources.shape == (3, 2, 20, 30)
    assert batches[0].target.shape == batches[0].foreground.shape == (3, 1, 20, 30)
    for batch in batches:
        expected = torch.arange(1.0, 31).expand(len(batch.indices), 1, 20, 30) / 64
        torch.testing.assert_close(batch.target, expected)
        assert batch.foreground[..., :10, :].all()
        assert not batch.foreground[..., 10:, :].any()


def test_evaluation_of_chosen_slices(sessions: list[CachedSession]) -> None:
    (batch,) = datasets.evaluation_slices(sessions[0], batch_size=4, indices=(3, 1))
    assert batch.indices == (3, 1)
    assert (64 * batch.sources[:, 0, 0, 0]).tolist() == [4, 2]
    assert batch.sources.shape == (2, 2, 20, 30)


def test_validation_takes_even_steps(tmp_path: Path) -> None:
    sessions = [make_entry(tmp_path / str(n), shape=(10, 2, 4, 4), fraction=[0.0, 0.0] + [0.5] * 8) for n in range(5)]
    subset = datasets.validation_subset(sessions, limit=10)
    assert sum(len(indices) for _, indices in subset) == 10
    assert [session.subject_id for session, _ in subset] == ["0", "1", "2", "3", "4"]
    assert {len(indices) for _, indices in subset} == {2}
    assert all(k >= 2 for _, indices in subset for k in indices)
    assert datasets.validation_subset(sessions, limit=10) == subset
    assert [indices for _, indices in datasets.validation_subset(sessions)] == [tuple(range(2, 10))] * 5
    assert datasets.validation_subset([]) == []


def test_a_subset_of_each_depends_on_no_other_subject(tmp_path: Path) -> None:
    sessions = [make_entry(tmp_path / name, shape=(9, 2, 4, 4), fraction=[0.5] * 9) for name in "abc"]
    chosen = datasets.subset_of_each(sessions, limit=3)
    assert {name: [ks for _, ks in own] for name, own in chosen.items()} == {name: [(0, 4, 8)] for name in "abc"}
    assert datasets.subset_of_each(sessions[1:], limit=3) == {name: chosen[name] for name in "bc"}


def test_validation_of_volumes_takes_whole_ones(tmp_path: Path) -> None:
    sessions = [make_entry(tmp_path / str(n), shape=(10, 2, 4, 4), fraction=[0.0, 0.0] + [0.5] * 8) for n in range(5)]
    for limit, names in ((64, "01234"), (39, "024"), (3, "0")):
        subset = datasets.validation_subset(sessions, limit=limit, volumes=True)
        assert "".join(session.subject_id for session, _ in subset) == names
        assert {indices for _, indices in subset} == {tuple(range(2, 10))}
    assert datasets.validation_subset(sessions, limit=0, volumes=True) == []
    assert datasets.validation_subset([], volumes=True) == []


def test_spacing_warning_names_the_sites() -> None:
    assert datasets.spacing_warning({}) is None
    assert datasets.spacing_warning({"Guys": (0.94, 0.94, 1.25), "HH": (0.94, 1.0, 1.25)}) is None
    warning = datasets.spacing_warning({"Guys": (0.94, 0.94, 1.25), "IOP": (0.94, 0.94, 2.0)})
    assert warning is not None
    assert "Guys 0.94 x 0.94 x 1.25" in warning
    assert "IOP 0.94 x 0.94 x 2.00" in warning
    assert "grid.spacing_mm" in warning
