"""A sum that shows none of its summands (Bonawitz et al., CCS 2017, section 3, without recovery from drop-outs).

Each two sites of an attempt agree on a secret (X25519). Of it and of the request that all of them got they derive a
stream (HKDF-SHA256, ChaCha20) as long as the update. One of them adds it to what it sends, and the other subtracts it,
modulo 2^64. So each vector alone is uniform over the ring for whoever lacks the secrets, and the sum of all is that of
the updates. One that does not come leaves the sum without meaning, and a new attempt begins with new keys.

A site multiplies its update by its training subjects n, rounds it to fixed point, and appends n. With P sites and a
bound B of the update's Euclidean norm, a unit is

    scale = 2^(62 - 20 - ceil(log2 P) - ceil(log2 B))   to 1,

and since n <= 2^20, the sum of all cannot leave the ring's signed half. Each value of the mean is wrong by at most
1 / (2 scale) + 2^-51 B: each site rounds once to whole units, by at most one half, and the sum of P such errors is
divided by at least P subjects; the product before and the two roundings after it are each of 2^-53 of at most B.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from numpy.typing import NDArray

from agi_core.errors import ProtocolError
from agi_core.host.keys import fingerprint
from agi_core.protocol import Request, Weights, hash_of
from agi_core.run.json_objects import JsonObject

FEWEST = 3
SUBJECT_BITS = 20
BLOCK = 2**20  # values of a mask at a time
Ring = NDArray[np.uint64]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Participant(JsonObject):
    """A site of an attempt: its registered key (an OpenSSH line), its X25519 key of this attempt, and the signature of
    the one on the other (both hexadecimal)."""

    public_key: str
    ephemeral: str
    signature: str


@dataclass(frozen=True)
class Attempt(JsonObject):
    """What all sites of a sum are told: which attempt of the round it is, from 1, to which norm an update is clipped,
    and who takes part. A question for keys has neither of the last two."""

    number: int
    bound: float = 0.0
    participants: Mapping[str, Participant] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request) -> "Attempt":
        """The attempt that a request belongs to. Raises ProtocolError where it cannot be read."""
        try:
            return cls.from_json(json.loads(request.secure_sum))
        except (ValueError, TypeError, RecursionError) as error:
            raise ProtocolError(f"the secure sum cannot be read: {error}") from None

    @property
    def text(self) -> str:
        """As a request carries it."""
        return json.dumps(self.to_json(), sort_keys=True)

    @property
    def scale(self) -> float:
        """Units of fixed point in 1."""
        sites = math.ceil(math.log2(len(self.participants)))
        return math.ldexp(1.0, 62 - SUBJECT_BITS - sites - math.ceil(math.log2(self.bound)))

    @property
    def error(self) -> float:
        """The largest error of a value of the mean."""
        return 0.5 / self.scale + math.ldexp(self.bound, -51)

    def check(self, request: Request) -> None:
        """Raise ProtocolError unless the bound is possible, and at least `FEWEST` sites take part, each with keys of
        its own and a signature for this attempt."""
        several = len(self.participants)
        if not 1e-100 < self.bound < 1e100:
            raise ProtocolError(f"a secure sum cannot have the bound {self.bound}")
        if several < FEWEST:
            raise ProtocolError(f"a secure sum of {several} sites shows their updates; it needs {FEWEST}")
        for site, participant in self.participants.items():
            check_key(participant, request, site=site)
        if len({fingerprint(its.public_key) for its in self.participants.values()}) < several:
            raise ProtocolError("two sites of the secure sum have the same key")


def statement(request: Request, *, site: str, ephemeral: str) -> bytes:
    """What a site signs of its key: it holds for this site, run, round and attempt alone."""
    asked = [request.run_id, request.round, Attempt.of(request).number, site, ephemeral]
    return f"agi-fed secure sum {json.dumps(asked)}".encode()


def check_key(participant: Participant, request: Request, *, site: str) -> None:
    """Raise ProtocolError unless the site's registered key has signed its key of this attempt, and others can agree on
    a secret with that."""
    try:
        key = load_ssh_public_key(participant.public_key.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError
        signed = statement(request, site=site, ephemeral=participant.ephemeral)
        key.verify(bytes.fromhex(participant.signature), signed, ec.ECDSA(SHA384()))
    except Exception:  # whatever hostile bytes raise
        raise ProtocolError(f"the key of {site} for the secure sum is not signed by its own key") from None
    _secret(X25519PrivateKey.generate(), participant, site=site)  # a point of small order fails with every key


def _secret(private: X25519PrivateKey, participant: Participant, *, site: str) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(participant.ephemeral)))
    except ValueError:
        raise ProtocolError(f"the key of {site} for the secure sum is no X25519 key") from None


def context(request: Request) -> bytes:
    """A digest of all that is the same for all sites of an attempt: run, round, attempt, participants, task, weights. A
    site that was asked anything else has other masks, and the sum has no meaning."""
    same = [request.action, request.run_id, request.round, request.task, request.weights.manifest, request.secure_sum]
    return hashlib.sha256(hash_of(request.weights, after=json.dumps(same)).encode()).digest()


def masked(update: Vector, request: Request, *, site: str, private: X25519PrivateKey, subjects: int) -> Ring:
    """The update as it leaves, in the ring: (n + 1,).

    Args:
        update: (n,), finite, of a norm of at most the attempt's bound.
        private: the site's key of this attempt, which masks no second vector.
        subjects: how often the update counts.

    Raises:
        ProtocolError: a participant's key is none, or the site has no subject or too many.
    """
    attempt = Attempt.of(request)
    if not 1 <= subjects <= 2**SUBJECT_BITS:
        raise ProtocolError(f"a secure sum cannot count {subjects} subjects")
    units = np.rint((subjects * attempt.scale) * update).astype(np.int64)
    vector = np.append(units, np.int64(subjects)).view(np.uint64)
    for other, participant in attempt.participants.items():
        if other == site:
            continue
        for start, mask in _masks(
            private, participant, between=sorted((site, other)), request=request, size=vector.size
        ):
            part = vector[start : start + mask.size]
            np.add(part, mask, out=part) if site < other else np.subtract(part, mask, out=part)
    return vector


def _masks(
    private: X25519PrivateKey, participant: Participant, *, between: Sequence[str], request: Request, size: int
) -> Iterable[tuple[int, Ring]]:
    """(first value, mask) of what two sites have in common, block by block."""
    secret = _secret(private, participant, site=" or ".join(between))
    info = json.dumps(["agi-fed secure sum", *between]).encode() + context(request)
    key = HKDF(SHA256(), length=32, salt=None, info=info).derive(secret)
    stream = Cipher(ChaCha20(key, nonce=bytes(16)), mode=None).encryptor()
    for start in range(0, size, BLOCK):
        yield start, np.frombuffer(stream.update(bytes(8 * min(BLOCK, size - start))), dtype="<u8")


def mean_of(vectors: Iterable[Ring], attempt: Attempt, *, size: int, most_subjects: int) -> tuple[Vector, int]:
    """(mean of the updates over subjects, subjects) from the vectors of all participants, (size + 1,) each.

    Args:
        most_subjects: as many as all participants together may count.

    Raises:
        ProtocolError: no sum of updates within the bound is like that: a site did not keep to the attempt.
    """
    total = np.zeros(size + 1, np.uint64)
    for vector in vectors:
        total += vector
    units, subjects = total[:-1].view(np.int64), int(total[-1])
    if not len(attempt.participants) <= subjects <= most_subjects:
        raise ProtocolError(f"the secure sum counts {subjects} subjects, and there are at most {most_subjects}")
    mean: Vector = units / (attempt.scale * subjects)
    norm = float(np.linalg.norm(mean))
    if norm > attempt.bound + attempt.error * math.sqrt(size):
        raise ProtocolError(f"the mean of the secure sum changes the weights by {norm:.3g}, above {attempt.bound:.3g}")
    return mean, subjects


def change(trained: Mapping[str, NDArray[Any]], sent: Weights, *, names: Sequence[str]) -> Vector:
    """What training changed in these weights, as one vector."""
    return np.concatenate([np.subtract(trained[n], sent[n], dtype=np.float64).reshape(-1) for n in names])


def changed(sent: Weights, update: Vector, *, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The weights that were sent, with this change of the named ones, in float64."""
    weights: dict[str, NDArray[Any]] = {name: array.astype(np.float64) for name, array in sent.items()}
    start = 0
    for name in names:
        weights[name] += update[start : start + weights[name].size].reshape(weights[name].shape)
        start += weights[name].size
    return weights
