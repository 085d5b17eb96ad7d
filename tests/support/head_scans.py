"""Volumes that have what a head is found by: a bright ball in noise."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def ball(shape: tuple[int, int, int], radius: float) -> Array:
    index = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    return np.asarray((index**2).sum(axis=0) < radius**2)


def head_scan(seed: int = 0, shape: tuple[int, int, int] = (24, 28, 16)) -> Array:
    """A bright ball in noise."""
    noise = np.random.default_rng(seed).uniform(1, 60, shape)
    return np.asarray(noise + 1000 * ball(shape, 8), dtype=np.float32)
