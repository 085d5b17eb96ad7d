"""The scans of the misalignment benchmark: sessions as cached, moved and registered. Nothing is made twice."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agi_core.data.cached_session import CachedSession
from agi_core.data.misalignment import Move, apply, draw
from agi_core.data.nifti import Volume
from agi_core.data.partition import split_subjects
from agi_core.data.preparation import Preparation
from agi_core.data.preprocess import resample
from agi_core.data.registration import register
from agi_core.data.scans import Scans, discover
from agi_core.host import atomic
from agi_core.scenario import parse_scenario
from benchmarks.misalignment_setup import TESTS, Setup, Test, configuration
from benchmarks.target_pose import twin


def open_sessions(setup: Setup, data: str, *, part: str) -> list[CachedSession]:
    """Cached sessions of the stable split's `train` or `test` subjects. Whole slices in both, so that training sees
    as much air around the head as testing, and a moved head does not leave the picture. Another folder of scans to
    test on is used whole."""
    elsewhere = setup.tested_dir if part == "test" else None
    root = elsewhere or setup.data_dir
    if data == "twin" and elsewhere is None:
        assert setup.registered_dir is not None
        root = twin(setup.data_dir, setup.registered_dir, root=setup.out_dir / "twin")
    scans = Scans(root, setup.layout, register="rigid" if data == "rigid" and part == "train" else "none")
    found = discover(scans, parse_scenario(setup.scenario).modalities)
    chosen = None if elsewhere else getattr(split_subjects([subject.id for subject in found.subjects]), part)
    task = configuration(setup, "plain", 0).task
    preparation = Preparation.of(task, scans, cache_dir=setup.out_dir / "cache", whole=True)
    return preparation.open(subject for subject in found.subjects if chosen is None or subject.id in chosen)


def move_of(test: Test, session: CachedSession) -> Move:
    """The same for every variant and seed."""
    digest = hashlib.sha256(f"{test}|{session.subject_id}|{session.session}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8]))
    return draw(rng, test.kind, test.size, spacing_mm=session.spacing_mm, up_to=test.up_to)


def read_whole(session: CachedSession) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Volumes (D, M, H, W) and head (D, H, W) of a session."""
    volumes, heads = zip(*map(session.read_slice, range(session.shape[0])), strict=True)
    return np.stack(volumes).astype(np.float32), np.stack(heads)


def prepare_tests(setup: Setup, data: str) -> None:
    """Write the moved source of every test subject and test, with `rigid` registered after it was moved, and the
    caches; nothing is done twice."""
    scenario = parse_scenario(setup.scenario)
    moved, reference = scenario.sources.index(setup.moved), scenario.sources.index(setup.reference)
    open_sessions(setup, data, part="train")
    moves: dict[str, dict[str, Any]] = {}
    for session in open_sessions(setup, data, part="test"):
        volumes, _ = read_whole(session)
        for test in TESTS:
            move = move_of(test, session)
            moves.setdefault(str(test), {})[session.subject_id] = dataclasses.asdict(move)
            path = moved_path(setup, data, test, session)
            if path.is_file():
                continue
            volume = apply(volumes[:, moved], move, session.spacing_mm)
            if data == "rigid":
                volume = registered(volume, onto=volumes[:, reference], session=session)
            with atomic.replacing(path) as temporary_path:
                np.save(temporary_path, volume.astype(np.float16))
    atomic.write_json(setup.out_dir / "moves.json", moves)


def moved_path(setup: Setup, data: str, test: Test, session: CachedSession) -> Path:
    visit = f"-{session.session}" if session.session else ""
    return setup.out_dir / "moved" / data / str(test).replace("/", "-") / f"{session.subject_id}{visit}.npy"


def registered(
    volume: npt.NDArray[np.float32], *, onto: npt.NDArray[np.float32], session: CachedSession
) -> npt.NDArray[np.float32]:
    """A (D, H, W) volume registered to another on the session's grid, as `data.register: rigid` does."""
    affine = session.grid.affine
    laid = register(Volume(volume.T, affine), Volume(onto.T, affine), place=session.subject_id)
    return resample(laid.data, laid.grid, session.grid).T


def test_inputs(setup: Setup, data: str) -> Iterator[tuple[CachedSession, Test, Tensor, Tensor, Tensor]]:
    """Sources (D, M, H, W) with one moved, target and head (D, 1, H, W), for every test subject and test."""
    moved = parse_scenario(setup.scenario).sources.index(setup.moved)
    for session in open_sessions(setup, data, part="test"):
        volumes, head = read_whole(session)
        for test in TESTS:
            volumes[:, moved] = np.load(moved_path(setup, data, test, session))
            images = torch.from_numpy(volumes.copy())
            yield session, test, images[:, :-1], images[:, -1:], torch.from_numpy(head)[:, None]
