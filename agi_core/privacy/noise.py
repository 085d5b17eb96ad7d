"""The randomness that privacy rests on: an AES-256 keystream in counter mode, keyed by the operating system.

Whoever can predict the noise can subtract it, so neither torch's nor NumPy's generators may draw it: their whole state
follows from a few hundred outputs. Everything here is float64; the caller adds noise in float64 and rounds to the
parameters' precision afterwards. That rounding is post-processing: the gaps that float64 leaves between possible noise
values (Mironov 2012) are 2^29 times finer than the float32 grid on which results are published.
"""

import math
import os
import warnings

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from agi_core.errors import PrivacyError

Float64Array = npt.NDArray[np.float64]
_BITS = 53  # of a float64's significand


class InsecureNoiseWarning(UserWarning):
    """Noise was made from a seed: whoever knows the seed can subtract it."""


class NoiseSource:
    """Uniform and normal numbers from the AES-256-CTR keystream of one key (NIST SP 800-38A, section 6.5).

    Use `system_noise()`. A source belongs to the process that made it: after a fork both processes would draw the same
    noise, and the difference of their results would hold none.
    """

    def __init__(self, key: bytes, *, counter: bytes = bytes(16)) -> None:
        self._encryptor = Cipher(AES256(key), CTR(counter)).encryptor()
        self._process = os.getpid()

    def read(self, size_bytes: int) -> bytes:
        """The next bytes of the keystream.

        Raises:
            PrivacyError: the source was made by another process.
        """
        if os.getpid() != self._process:
            raise PrivacyError("a noise source crossed a fork; make one with system_noise() in each process")
        return self._encryptor.update(bytes(size_bytes))

    def uniform(self, count: int) -> Float64Array:
        """`count` numbers k / 2^53 in [0, 1), with k uniform over all 53-bit integers."""
        words = np.frombuffer(self.read(8 * count), dtype="<u8")
        return (words >> np.uint64(64 - _BITS)).astype(np.float64) * np.float64(2.0**-_BITS)

    def normal(self, count: int) -> Float64Array:
        """`count` independent standard normal numbers, by the transform of Box and Muller (1958).

            z1, z2 = sqrt(-2 ln u) cos(2 pi v), sqrt(-2 ln u) sin(2 pi v)        u in (0, 1], v in [0, 1)

        The largest possible |z| is sqrt(2 * 53 ln 2) = 8.57; a true normal exceeds it with probability 1e-17.
        """
        u, v = self.uniform(2 * -(-count // 2)).reshape(2, -1)
        radius, angle = np.sqrt(-2 * np.log(1 - u)), 2 * math.pi * v  # 1 - u is exact, and never 0
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def seed(self) -> int:
        """A fresh seed of 63 bits for a generator on which no privacy rests, such as that of augmentations."""
        return int.from_bytes(self.read(8)) >> 1


def system_noise() -> NoiseSource:
    """A source keyed by the operating system; no two give the same numbers, and nobody can repeat them."""
    return NoiseSource(os.urandom(32))


def insecure_seeded_noise(seed: int) -> NoiseSource:
    """A repeatable source FOR TESTS ONLY: its noise protects nobody. Each call warns (`InsecureNoiseWarning`)."""
    warnings.warn(
        "insecure_seeded_noise: the noise follows from a seed and protects nobody; use system_noise() outside of tests",
        InsecureNoiseWarning,
        stacklevel=2,
    )
    return NoiseSource(seed.to_bytes(32))


def poisson_lot(count: int, *, rate: float, noise: NoiseSource) -> list[int]:
    """A lot: the numbers below `count`, each drawn independently with probability `rate`.

    If few are expected, a lot is often empty. It is still a lot, and its step is still taken: the accounting of
    `agi_core.privacy.accounting` holds for this sampling only.
    """
    return [int(index) for index in np.flatnonzero(noise.uniform(count) < rate)]
