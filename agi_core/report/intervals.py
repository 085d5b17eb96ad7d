"""Confidence intervals of the report: over sites, because no figure of a single subject leaves a site."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

FEWEST = 3  # two sites give an interval of thirteen standard errors, which says nothing


class Interval(NamedTuple):
    """A mean over `sites` values, and the limits of its 95 % confidence interval (Student's t)."""

    mean: float
    low: float
    high: float
    sites: int


def over_sites(values: Sequence[float]) -> Interval | None:
    """The interval of one value per site, each site counting alike; None for fewer than `FEWEST`."""
    n = len(values)
    if n < FEWEST:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(n)
    half = float(stdtrit(n - 1, 0.975)) * error
    return Interval(mean, mean - half, mean + half, n)
