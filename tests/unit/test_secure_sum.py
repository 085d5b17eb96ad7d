"""The sum, its error, what the coordinator sees of it, and the keys that it refuses."""

import base64
import dataclasses
import json
from collections.abc import Mapping

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from numpy.typing import NDArray

from agi_core import secure_sum
from agi_core.errors import ProtocolError
from agi_core.protocol import TRAIN, Request, pack
from agi_core.secure_sum import Attempt, Participant, Ring, Vector, masked, mean_of, statement

SITES = ("A", "B", "C", "D")
OWN_KEYS = {site: ec.derive_private_key(number, ec.SECP384R1()) for number, site in enumerate(SITES, start=7)}
ASKED = Request(
    action=TRAIN,
    run_id="run",
    round=3,
    nonce="",
    task="{}",
    subjects="",
    deadline_s=60,
    weights=pack({"w": np.ones(3, np.float32)}),
    secure_sum=Attempt(1).text,
)


POINT = OWN_KEYS["B"].public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
PARTS = (b"ecdsa-sha2-nistp384", b"nistp384", POINT)
BLOB = b"".join(len(part).to_bytes(4) + part for part in PARTS)
COMPRESSED = f"ecdsa-sha2-nistp384 {base64.b64encode(BLOB).decode()}"  # the library raises NotImplementedError


def private_key(site: str, *, seed: int = 0) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes([seed + 1, ord(site)]) * 16)


def participant(site: str, asked: Request = ASKED, *, seed: int = 0, signed_by: str = "") -> Participant:
    """The site and its key of the attempt, signed by its own."""
    ephemeral = private_key(site, seed=seed).public_key().public_bytes_raw().hex()
    own = OWN_KEYS[signed_by or site]
    signature = own.sign(statement(asked, site=site, ephemeral=ephemeral), ec.ECDSA(SHA384())).hex()
    public = OWN_KEYS[site].public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return Participant(public, ephemeral, signature)


def request(sites: Mapping[str, Participant], *, bound: float = 4.0) -> Request:
    return dataclasses.replace(ASKED, secure_sum=Attempt(1, bound, sites).text)


def updates(size: int, *, sites: int, bound: float) -> dict[str, Vector]:
    """Of the largest norm that is allowed."""
    drawn = {site: np.random.default_rng(ord(site)).normal(size=size) for site in SITES[:sites]}
    return {site: vector * (bound / np.linalg.norm(vector)) for site, vector in drawn.items()}


def vectors(vectors: Mapping[str, Vector], counts: Mapping[str, int], asked: Request, *, seed: int = 0) -> list[Ring]:
    return [
        masked(vector, asked, site=site, private=private_key(site, seed=seed), subjects=counts[site])
        for site, vector in vectors.items()
    ]


@pytest.mark.parametrize("sites", [3, 4])
@pytest.mark.parametrize("bound", [1e-6, 1.0, 37.5, 1e6])
def test_the_mean_is_that_of_the_updates(sites: int, bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the stated error, which is far below 1e-5 of the bound; also for masks of several blocks."""
    monkeypatch.setattr(secure_sum, "BLOCK", 300)
    plain, counts = updates(1000, sites=sites, bound=bound), {"A": 1, "B": 7, "C": 2**20, "D": 150}
    asked = request({site: participant(site) for site in plain}, bound=bound)
    attempt, total = Attempt.of(asked), sum(counts[site] for site in plain)
    attempt.check(asked)
    mean, subjects = mean_of(vectors(plain, counts, asked), attempt, size=1000, most_subjects=2**30)
    expected = sum(counts[site] * plain[site] for site in plain) / total
    assert subjects == total
    assert np.abs(mean - expected).max() <= attempt.error < 1e-9 * bound


def test_the_error_is_reached_and_not_passed() -> None:
    """One subject each, and values that lie between two units: the worst that rounding can do."""
    asked = request({site: participant(site) for site in SITES[:3]}, bound=1.0)
    attempt = Attempt.of(asked)
    half = {site: np.full(5, 0.49 / attempt.scale) for site in SITES[:3]}
    mean, _ = mean_of(vectors(half, dict.fromkeys(SITES, 1), asked), attempt, size=5, most_subjects=3)
    error = np.abs(mean - 0.49 / attempt.scale).max()
    assert 0.9 * attempt.error < error <= attempt.error


def test_the_largest_sum_stays_in_the_ring() -> None:
    asked = request({site: participant(site) for site in SITES[:3]}, bound=1.0)
    for sign in (1.0, -1.0):
        largest = {site: np.array([sign, 0.0]) for site in SITES[:3]}
        sent = vectors(largest, dict.fromkeys(SITES, 2**20), asked)
        mean, _ = mean_of(sent, Attempt.of(asked), size=2, most_subjects=2**30)
        np.testing.assert_allclose(mean, [sign, 0], atol=1e-12)


def bytes_chi_square(vector: Ring) -> float:
    """Of the counts of the 256 values of a byte: 255 on average, with a standard deviation of 22.6."""
    counts: NDArray[np.int64] = np.bincount(vector.view(np.uint8), minlength=256)
    expected = vector.nbytes / 256
    return float(((counts - expected) ** 2 / expected).sum())


def test_what_the_coordinator_sees_is_uniform() -> None:
    """Each vector, whatever the update, and also the sum of some of them, and the difference of two attempts."""
    plain = {site: np.zeros(20_000) for site in SITES}
    counts = dict.fromkeys(SITES, 5)
    asked = request({site: participant(site) for site in SITES})
    again = request({site: participant(site, seed=1) for site in SITES})
    first, second = vectors(plain, counts, asked), vectors(plain, counts, again, seed=1)
    seen = [*first, first[0] + first[1] + first[2], first[0] - second[0]]
    assert max(map(bytes_chi_square, seen)) < 255 + 5 * 22.6
    whole = first[0] + first[1] + first[2] + first[3]
    assert bytes_chi_square(whole) > 1e6  # that of the sum is not


def test_without_one_of_them_the_sum_is_refused() -> None:
    asked = request({site: participant(site) for site in SITES})
    sent = vectors(updates(50, sites=4, bound=4.0), dict.fromkeys(SITES, 5), asked)
    for missing in range(4):
        some = sent[:missing] + sent[missing + 1 :]
        with pytest.raises(ProtocolError, match="the secure sum counts"):
            mean_of(some, Attempt.of(asked), size=50, most_subjects=100)


def test_a_sum_above_the_bound_is_refused() -> None:
    asked = request({site: participant(site) for site in SITES[:3]}, bound=1.0)
    sent = vectors(updates(50, sites=3, bound=9.0), {"A": 90, "B": 1, "C": 1}, asked)
    with pytest.raises(ProtocolError, match="changes the weights by 8"):
        mean_of(sent, Attempt.of(asked), size=50, most_subjects=100)


def test_sites_that_were_asked_different_things_have_no_sum() -> None:
    """A coordinator could else send weights with which all but one change nothing."""
    asked = request({site: participant(site) for site in SITES[:3]})
    other = dataclasses.replace(asked, weights=pack({"w": np.zeros(3, np.float32)}))
    plain, counts = updates(50, sites=3, bound=4.0), dict.fromkeys(SITES, 5)
    sent = [*vectors(plain, counts, asked)[:2], vectors(plain, counts, other)[2]]
    with pytest.raises(ProtocolError, match="the secure sum counts"):
        mean_of(sent, Attempt.of(asked), size=50, most_subjects=100)


@pytest.mark.parametrize("subjects", [0, 2**20 + 1])
def test_a_count_that_does_not_fit_is_refused(subjects: int) -> None:
    asked = request({site: participant(site) for site in SITES[:3]})
    with pytest.raises(ProtocolError, match="cannot count"):
        masked(np.zeros(3), asked, site="A", private=private_key("A"), subjects=subjects)


def replayed(**changed: object) -> Participant:
    """B's key, as it told it when it was asked something else."""
    return participant("B", dataclasses.replace(ASKED, **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (participant("B", signed_by="C"), "the key of B for the secure sum is not signed"),
        (replayed(round=2), "not signed"),
        (replayed(run_id="another"), "not signed"),
        (replayed(secure_sum=Attempt(2).text), "not signed"),
        (dataclasses.replace(participant("B"), ephemeral="00" * 32), "not signed"),
        (dataclasses.replace(participant("B"), signature="no"), "not signed"),
        (dataclasses.replace(participant("B"), public_key="ssh-ed25519 AAAA"), "not signed"),
        (dataclasses.replace(participant("B"), public_key=COMPRESSED), "not signed"),
        (participant("A"), "not signed"),
    ],
)
def test_a_forged_or_replayed_key_is_refused(second: Participant, reason: str) -> None:
    asked = request({"A": participant("A"), "B": second, "C": participant("C")})
    with pytest.raises(ProtocolError, match=reason):
        Attempt.of(asked).check(asked)


def test_one_hospital_does_not_stand_for_two() -> None:
    """It signs a second key in another name, and writes its own a little differently."""
    own = participant("B")
    twin = f"{own.public_key} a comment"
    ephemeral = private_key("B", seed=1).public_key().public_bytes_raw().hex()
    signature = OWN_KEYS["B"].sign(statement(ASKED, site="C", ephemeral=ephemeral), ec.ECDSA(SHA384())).hex()
    asked = request({"A": participant("A"), "B": own, "C": Participant(twin, ephemeral, signature)})
    with pytest.raises(ProtocolError, match="two sites of the secure sum have the same key"):
        Attempt.of(asked).check(asked)


@pytest.mark.parametrize("ephemeral", ["01" + "00" * 31, "00" * 32, "05" * 31, ""])
def test_a_key_that_is_no_point_is_refused(ephemeral: str) -> None:
    """The first two are of small order: the secret would be known to all. Nobody trains before it is refused."""
    own = OWN_KEYS["B"].sign(statement(ASKED, site="B", ephemeral=ephemeral), ec.ECDSA(SHA384())).hex()
    second = dataclasses.replace(participant("B"), ephemeral=ephemeral, signature=own)
    asked = request({"A": participant("A"), "B": second, "C": participant("C")})
    with pytest.raises(ProtocolError, match="the key of B for the secure sum is no X25519 key"):
        Attempt.of(asked).check(asked)
    with pytest.raises(ProtocolError, match="the key of A or B for the secure sum is no X25519 key"):
        masked(np.zeros(3), asked, site="A", private=private_key("A"), subjects=1)


def test_two_sites_are_too_few() -> None:
    asked = request({site: participant(site) for site in SITES[:2]})
    with pytest.raises(ProtocolError, match="a secure sum of 2 sites shows their updates; it needs 3"):
        Attempt.of(asked).check(asked)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf"), pytest.param(10**400, id="huge")])
def test_an_impossible_bound_is_refused(bound: float) -> None:
    asked = request({site: participant(site) for site in SITES[:3]}, bound=bound)
    with pytest.raises(ProtocolError, match="cannot have the bound"):
        Attempt.of(asked).check(asked)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"number": "1"}', json.dumps({"number": 1, "participants": {"A": 1}})]
)
def test_an_attempt_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="the secure sum cannot be read"):
        Attempt.of(dataclasses.replace(ASKED, secure_sum=text))
