"""Moves against np.roll, np.rot90 and analytic images."""

import dataclasses
import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agi_core.config.schema import MisalignConfig, MisalignKind
from agi_core.data.misalignment import Move, apply, draw, field, perturbation
from agi_core.scenario import Scenario

SPACING_MM = (1.5, 1.75, 5.0)
SCENARIO = Scenario(("T1", "T2"), "PD")


def noise(*shape: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@given(right=st.integers(-5, 5), anterior=st.integers(-5, 5), superior=st.integers(-2, 2))
@settings(max_examples=20, deadline=None)
def test_whole_voxels_are_a_roll_inside(right: int, anterior: int, superior: int) -> None:
    volume = noise(7, 20, 24)
    move = Move(shift_mm=(right * 1.5, anterior * 1.75, superior * 5.0))
    rolled = np.roll(volume, (superior, anterior, right), axis=(0, 1, 2))
    inside = np.s_[2:-2, 5:-5, 5:-5]
    np.testing.assert_allclose(apply(volume, move, SPACING_MM)[inside], rolled[inside], atol=1e-5)


def test_a_quarter_turn_takes_right_to_anterior() -> None:
    volume = noise(3, 9, 9)
    turned = apply(volume, Move(angle_deg=(0, 0, 90)), (2.0, 2.0, 5.0))
    np.testing.assert_allclose(turned, np.rot90(volume, -1, axes=(1, 2)), atol=1e-5)


def test_a_scaled_image_is_larger_about_its_middle() -> None:
    ramp = np.broadcast_to(np.arange(21, dtype=np.float32), (1, 21, 21))
    scaled = apply(ramp, Move(scale=1.25), SPACING_MM)
    np.testing.assert_allclose(scaled, 10 + (ramp - 10) / 1.25, atol=1e-5)


def test_nothing_enters_from_outside() -> None:
    moved = apply(1 + noise(3, 16, 16), Move(shift_mm=(9, -7, 0), angle_deg=(3, 4, 20), scale=0.9), SPACING_MM)
    assert moved.min() >= 1


def test_an_elastic_field_has_its_size_lies_in_the_plane_and_is_smooth() -> None:
    bent = field(Move(elastic_rms_mm=3, elastic_seed=1), (10, 64, 64), SPACING_MM)
    assert not bent[0].any()
    for component, spacing_mm in ((bent[1], 1.75), (bent[2], 1.5)):
        assert np.sqrt(np.mean(component**2)) * spacing_mm == pytest.approx(3, rel=1e-4)
        assert np.abs(np.diff(component, axis=2)).max() < 1  # never folds


@pytest.mark.parametrize("kind", get_args(MisalignKind))
@pytest.mark.parametrize("up_to", [False, True])
def test_a_recorded_draw_is_replayed(kind: MisalignKind, up_to: bool) -> None:
    move = draw(np.random.default_rng(3), kind, 2, spacing_mm=SPACING_MM, up_to=up_to)
    text = json.dumps(dataclasses.asdict(move))
    replayed = Move(**json.loads(text))
    volume = noise(6, 12, 14)
    np.testing.assert_array_equal(apply(volume, replayed, SPACING_MM), apply(volume, move, SPACING_MM))
    assert draw(np.random.default_rng(3), kind, 2, spacing_mm=SPACING_MM, up_to=up_to) == move


def test_sizes_are_exact_or_bounds() -> None:
    rng = np.random.default_rng(0)

    def moves(kind: MisalignKind, size: float, *, up_to: bool) -> list[Move]:
        return [draw(rng, kind, size, spacing_mm=SPACING_MM, up_to=up_to) for _ in range(300)]

    steps = {(x / 1.5, y / 1.75, z) for x, y, z in (move.shift_mm for move in moves("translation", 4, up_to=False))}
    assert steps == {(4, 0, 0), (-4, 0, 0), (0, 4, 0), (0, -4, 0)}
    steps = {(x / 1.5, y / 1.75, z) for x, y, z in (move.shift_mm for move in moves("translation", 2, up_to=True))}
    assert steps == {(x, y, 0) for x in range(-2, 3) for y in range(-2, 3)}
    assert {move.angle_deg for move in moves("rotation", 5, up_to=False)} == {(0, 0, 5), (0, 0, -5)}
    assert {move.scale for move in moves("scale", 0.05, up_to=False)} == {0.95, 1.05}
    assert all(0 <= move.elastic_rms_mm <= 3 for move in moves("elastic", 3, up_to=True))
    for move in moves("rigid", 3, up_to=False):
        assert np.linalg.norm(move.shift_mm) == pytest.approx(3)
        assert np.linalg.norm(move.angle_deg) == pytest.approx(3)


def test_off_by_default() -> None:
    assert perturbation(MisalignConfig(), SCENARIO) is None
