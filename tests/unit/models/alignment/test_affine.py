"""The affine part of a motion against shifts that are known and numpy's least squares."""

import numpy as np
import pytest
import torch

from agi_core.models.alignment.affine import LEAST_RIDGE, RIDGE, affine_step, best_shift


@pytest.mark.parametrize("space", [(24, 30), (16, 18, 20)])
def test_ideal_edges_give_whole_and_half_shifts(space: tuple[int, ...]) -> None:
    shift = [1, -2, 2][: len(space)]
    axes = list(range(2, 2 + len(space)))
    a = torch.zeros(1, 1, *space, dtype=torch.float64)
    a[0, 0, *[n // 2 for n in space]] = 1
    there, before = (torch.roll(a, shifts, axes) for shifts in (shift, [shift[0] - 1, *shift[1:]]))
    in_voxels = torch.tensor(space) / 2
    torch.testing.assert_close(best_shift(a, there)[0] * in_voxels, torch.tensor(shift).double(), rtol=0, atol=1e-5)
    half = torch.tensor([shift[0] - 0.5, *shift[1:]]).double()
    torch.testing.assert_close(best_shift(a, there + before)[0] * in_voxels, half, rtol=0, atol=1e-3)


def test_affine_step_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    slope, right = (
        rng.standard_normal((2, 2, 3, 5, 7)),
        rng.standard_normal((2, 3, 5, 7)),
    )  # (B, N, C, H, W), (B, C, ..)
    basis = rng.standard_normal((3, 5, 7))
    matrix = (slope[:, :, None] * slope[:, None]).sum(3)
    theta = affine_step(*map(torch.from_numpy, (matrix, (slope * right[:, None]).sum(2), basis)))
    for b in range(2):
        design = np.einsum("ncyx,kyx->cyxnk", slope[b], basis).reshape(-1, 6)
        ridge = np.diag(np.sqrt(RIDGE * (design**2).sum(0) + LEAST_RIDGE))
        rows = np.concatenate([design, ridge])
        wanted = np.linalg.lstsq(rows, np.concatenate([right[b].reshape(-1), np.zeros(6)]), rcond=None)[0]
        np.testing.assert_allclose(theta[b].reshape(-1), wanted, rtol=1e-9)
