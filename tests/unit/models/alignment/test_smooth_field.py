"""The smooth field against numpy's least squares of data and prior."""

import numpy as np
import pytest
import torch

from agi_core.models.alignment.smooth_field import LEAST_PRECISION, from_waves, wave_counts, wave_step


@pytest.mark.parametrize(("voxels", "at"), [((24, 40), (24, 40)), ((24, 40), (12, 20)), ((1, 24, 40), (1, 24, 40))])
def test_a_wave_step_is_the_most_probable_field(voxels: tuple[int, ...], at: tuple[int, ...]) -> None:
    """Against numpy's least squares of data and prior, both written out; of a slab for the axes in the plane."""
    rng, counts = np.random.default_rng(0), [max(n // 12, 1) for n in voxels]
    slope, change = rng.standard_normal((2, 2, 2, *at)), rng.standard_normal((2, 2, *at))  # (B, K, C, ..), (B, C, ..)
    waves = np.stack([rng.standard_normal((2, *counts)), 1e-3 * rng.standard_normal((2, *counts))])
    matrix, right = (slope[:, :, None] * slope[:, None]).sum(3), (slope * change[:, None]).sum(2)
    step = wave_step(*map(torch.from_numpy, (matrix, right, waves)), voxels=voxels).numpy()
    places = [(np.arange(n) + 0.5) / n for n in at]
    numbers = list(np.ndindex(*counts))
    basis = np.stack(
        [np.prod(np.meshgrid(*[np.cos(np.pi * k * x) for k, x in zip(ks, places, strict=True)], indexing="ij"), axis=0)
         for ks in numbers]
    )  # fmt: skip
    half = np.array(voxels[-2:]) / 2
    roughness = np.array(
        [np.exp(sum((8.0 * np.pi * k / n) ** 2 for k, n in zip(ks, voxels, strict=True))) for ks in numbers]
    )
    for b in range(2):
        design = np.einsum("nc...,k...->c...nk", slope[b], basis).reshape(-1, 2 * len(basis))
        field = np.einsum("nk,k...->n...", waves[b].reshape(2, -1) * half[:, None], basis)
        stiffening = np.clip(2.5**2 / np.sum(field**2, axis=0).mean(), 1, 100)
        information = np.mean([(slope[b, n] ** 2).sum() / half[n] ** 2 for n in range(2)])
        precision = (0.005 * stiffening * information * half[:, None] ** 2 + LEAST_PRECISION) * roughness
        prior = np.diag(np.sqrt(precision.reshape(-1)))
        rows = np.concatenate([design, prior])
        wanted = np.concatenate([change[b].reshape(-1), -prior @ waves[b].reshape(-1)])
        np.testing.assert_allclose(step[b].reshape(-1), np.linalg.lstsq(rows, wanted, rcond=None)[0], rtol=1e-6)


def test_a_first_wave_step_is_taken_as_if_the_field_were_large() -> None:
    """Nothing has been found yet, which is not the same as nothing to be found."""
    matrix, right = torch.eye(2).reshape(1, 2, 2, 1, 1).expand(1, 2, 2, 24, 24), torch.ones(1, 2, 24, 24)
    none, little = torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2, 2), 1e-3)
    first, later = (wave_step(matrix, right, waves, voxels=(24, 24)) for waves in (none, little))
    assert first[0, 0, 0, 0] > 0.99
    assert later[0, 0, 0, 0] < 0.7


def test_waves_make_the_field_at_any_scale() -> None:
    waves = torch.zeros(1, 2, 2, 3)
    waves[0, 1, 1, 2] = 2.0
    for rows, columns in ((24, 36), (12, 18)):
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        field = from_waves(waves, (rows, columns))
        torch.testing.assert_close(field[0, 1], 2 * torch.cos(torch.pi * y) * torch.cos(2 * torch.pi * x))
        assert not field[0, 0].any()


def test_there_is_a_wave_for_every_twelve_voxels_up_to_twelve() -> None:
    assert wave_counts((1, 24, 35, 144, 400)) == [1, 2, 2, 12, 12]
