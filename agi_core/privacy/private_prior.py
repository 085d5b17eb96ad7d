"""One private Newton step of a prior, from public coefficients: patient-level privacy for the pooled calibration.

Public are the coefficients c, the gram matrix G of the data that they were solved from, N and C. With A_i and b_i, the
statistics of subject i's own voxels (`agi_core.ridge`), and W = (G + 1e-5 I)^-1/2,

    g_i  = W (b_i - A_i c)
    told = (sum over all i of g_i min(1, C / |g_i|) + sigma C z) / N,      z ~ N(0, 1) per coefficient
    t    = mean over sites of told, weighted by N;      v = noise of t, known: S (sigma C)^2 / (sum of N)^2, S sites
    c'   = c + W t min(max(0, 1 - K v / |t|^2), C^2 / (C^2 + K v))

g_i is half the descent direction of subject i's mean squared error, in coordinates in which G is the identity: c' is
one Newton step with G in place of the true A. The factor behind t is the positive part of James and Stein (1961): a
step that is no longer than its noise is not taken. It is at most the gain of Wiener's filter for the longest step that
there can be without noise, C: by chance noise is half as long again as it is on average, and was taken for a step. So
much noise leaves the public prior as it was.

Sensitivity: g_i is a function of subject i's scans and of public values alone. So to add or remove a subject adds or
removes one term of norm at most C, and changes no other. The sum is released once, with noise sigma C: the Gaussian
mechanism, which is one step with lot rate 1 for `agi_core.privacy.accounting`. N is a constant, and everything that
follows is post-processing. Without W the noise would drown the small directions of G, in which c moves most.
"""

import math
from collections.abc import Sequence

import numpy as np

from agi_core.config.schema import PrivacyConfig
from agi_core.errors import PrivacyError
from agi_core.privacy.accounting import Steps, calibrate
from agi_core.privacy.noise import NoiseSource
from agi_core.ridge import Statistics, Vector, whitening

CLIP = 0.05
SHARE = 0.3
"""Of the run's epsilon, if nothing else were released. A Gaussian's cost adds up by squares, so the steps of training
are left with nearly all of it."""
NOISE_NORMS = 3.0


def planned_release(privacy: PrivacyConfig) -> Steps:
    """The release's noise, as the ledger counts it.

    Raises:
        PrivacyError: the run has no budget, or an impossible one.
    """
    if privacy.epsilon is None:
        raise PrivacyError("a private prior needs privacy.epsilon")
    sigma = calibrate(SHARE * privacy.epsilon, delta=privacy.delta, lot_rate=1.0, steps=1)
    return Steps(sigma, 1.0, 1)


def noisy_newton_step(
    subjects: Sequence[Statistics],
    *,
    prior: Vector,
    gram: Vector,
    count: int,
    noise_multiplier: float,
    noise: NoiseSource,
) -> Vector:
    """`told` of the module, float64 (K,). Whoever lets it leave rounds it to float32 first, as `agi_core.privacy.noise`
    asks: all bits of a float64 would show which noise was drawn, and so who is in the sum.

    A subject whose term is not finite adds nothing.

    Args:
        subjects: the statistics of each subject's own voxels.
        prior, gram: c and G, which are public.
        count: N, the site's public number of subjects.
    """
    white = whitening(gram)
    total = noise_multiplier * CLIP * noise.normal(len(prior))
    for subject in subjects:
        step = white @ (subject.moment - subject.gram @ prior)
        norm = float(np.linalg.norm(step))
        if np.isfinite(norm):
            total += step * min(1.0, CLIP / (norm + 1e-9))
    return np.asarray(total / count)


def common_step(told: Sequence[tuple[Vector, int]], *, noise_multiplier: float) -> Vector:
    """t of the module with its last factor, from each site's `told` and N. It is post-processing.

    Without noise no share is longer than CLIP. One that is longer than its noise explains is cut down to that.
    """
    steps = []
    for step, count in told:
        longest = CLIP * (1 + NOISE_NORMS * noise_multiplier * math.sqrt(len(step)) / count)
        steps.append(step * min(1.0, longest / max(float(np.linalg.norm(step)), longest)))
    counts = [count for _, count in told]
    mean = np.average(steps, axis=0, weights=counts)
    noise = len(mean) * len(told) * (noise_multiplier * CLIP / sum(counts)) ** 2
    kept = max(0.0, 1 - noise / max(float(mean @ mean), noise))
    return np.asarray(mean * min(kept, CLIP**2 / (CLIP**2 + noise)))
