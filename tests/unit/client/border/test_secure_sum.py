"""What a site does for a secure sum: its keys, whom it sums with, and what it does to its update first."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from agi_core import signatures
from agi_core.errors import DivergedError, PolicyError, ProtocolError
from agi_core.host.keys import fingerprint
from agi_core.protocol import KEYS, TRAIN, Packed, Request, pack, unpack
from agi_core.secure_sum import Attempt, Participant, Vector, mean_of
from client.border.secure_sum import KEPT, check_participants, drawn_as, mask, tell_key
from client.site.file import CoordinatorAddress, DeployedSite, Site
from client.site.keys import make_key
from client.site.policy import Policy
from tests.support.requests_by_hand import KEY

BOUND, SIZE = 2.0, 40
WEIGHTS = pack({"w": np.ones(3, np.float32)})
SMALL = np.full(SIZE, 0.01)


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, Site]:
    return {site: Site(site=site, state_dir=str(tmp_path / site)) for site in ("A", "B", "C")}


def asked(*, round: int = 1, number: int = 1) -> Request:
    return Request(
        action=TRAIN,
        run_id="run",
        round=round,
        nonce="",
        task="{}",
        subjects=KEYS,
        deadline_s=60,
        weights=pack({}),
        secure_sum=Attempt(number).text,
    )


def told(packed: Packed) -> Participant:
    return Participant.from_json(json.loads(unpack(packed)["key"].tobytes()))


def begun(sites: Mapping[str, Site], *, round: int = 1, number: int = 1) -> Request:
    """The training request of an attempt for which all have told a key."""
    keys = {name: told(tell_key(site, asked(round=round, number=number))) for name, site in sites.items()}
    attempt = Attempt(number, BOUND, keys)
    return dataclasses.replace(asked(round=round), subjects="", weights=WEIGHTS, secure_sum=attempt.text)


def summed(sites: Mapping[str, Site], request: Request, update: Mapping[str, Vector]) -> Vector:
    vectors = [unpack(mask(site, request, update=update[name], subjects=1))["sum"] for name, site in sites.items()]
    return mean_of(vectors, Attempt.of(request), size=SIZE, most_subjects=3)[0]


def test_three_sites_tell_their_mean(sites: dict[str, Site]) -> None:
    request = begun(sites)
    for site in sites.values():
        check_participants(site, request)
    mean = summed(sites, request, {"A": SMALL, "B": 2 * SMALL, "C": 6 * SMALL})
    np.testing.assert_allclose(mean, 3 * SMALL, rtol=0, atol=1e-12)


def test_an_update_above_the_bound_is_scaled_down_to_it(sites: dict[str, Site]) -> None:
    far = np.zeros(SIZE)
    far[7] = 1e9
    mean = summed(sites, begun(sites), {"A": far, "B": 0 * SMALL, "C": 0 * SMALL})
    np.testing.assert_allclose(mean[7], BOUND / 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_leaves(sites: dict[str, Site], value: float) -> None:
    broken = SMALL.copy()
    broken[3] = value
    with pytest.raises(DivergedError):
        mask(sites["A"], begun(sites), update=broken, subjects=1)


def test_a_key_masks_one_vector(sites: dict[str, Site], tmp_path: Path) -> None:
    """Not even the same one a second time; and the key has left the disk."""
    request = begun(sites)
    (path,) = (tmp_path / "A" / "secure_sum").iterdir()
    assert len(json.loads(path.read_text())["private"]) == 64
    mask(sites["A"], request, update=SMALL, subjects=1)
    assert json.loads(path.read_text())["private"] == ""
    for refused in (
        lambda: mask(sites["A"], request, update=SMALL, subjects=1),
        lambda: check_participants(sites["A"], request),
    ):
        with pytest.raises(ProtocolError, match="A has no unused key for attempt 1 of round 1"):
            refused()


def test_a_newer_key_takes_the_place_of_the_one_before(sites: dict[str, Site]) -> None:
    """Whether it was used or not; and an attempt that is asked for again gets another key."""
    first = begun(sites)
    second = begun(sites, number=2)
    with pytest.raises(ProtocolError, match="no unused key for attempt 1"):
        check_participants(sites["A"], first)
    again = begun(sites, number=2)
    with pytest.raises(ProtocolError, match="the key that A has told for this secure sum is not in it"):
        check_participants(sites["A"], second)
    check_participants(sites["A"], again)


def test_keys_of_the_newest_runs_are_kept(sites: dict[str, Site], tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        tell_key(sites["A"], dataclasses.replace(asked(number=number), run_id=f"run {number}"))
    kept = [json.loads(path.read_text())["number"] for path in (tmp_path / "A" / "secure_sum").iterdir()]
    assert sorted(kept) == [*range(3, KEPT + 3)]


def test_a_vector_is_not_the_same_again(sites: dict[str, Site]) -> None:
    first, second = (
        unpack(mask(sites["A"], begun(sites, number=number), update=SMALL, subjects=1))["sum"] for number in (1, 2)
    )
    assert not (first == second).any()


def deployed(site: Site, *named: str) -> DeployedSite:
    """The same site, whose file names these fingerprints."""
    key_path = Path(site.state_dir) / "key" / "node"
    if not key_path.exists():
        make_key(key_path, site=site.site)
    address = CoordinatorAddress(address="h:1", ca_file="ca.crt", public_key=signatures.public_line(KEY))
    policy = Policy(secure_sum_with=[*named] if named else None)
    return DeployedSite(
        site=site.site, state_dir=site.state_dir, key_file=str(key_path), coordinator=address, policy=policy
    )


def test_a_deployed_site_sums_with_those_that_its_file_names(sites: dict[str, Site]) -> None:
    request = begun(sites)
    b, c = (fingerprint(Attempt.of(request).participants[name].public_key) for name in "BC")
    check_participants(deployed(sites["A"], b, c, "SHA256:another"), request)
    with pytest.raises(PolicyError, match=rf"does not name C {c.replace('+', '.')}; a coordinator can invent sites"):
        check_participants(deployed(sites["A"], b), request)
    with pytest.raises(PolicyError, match=r"policy.secure_sum_with is not set"):
        tell_key(deployed(sites["A"]), asked())


def test_a_simulated_site_may_name_others_too(sites: dict[str, Site]) -> None:
    request = begun(sites)
    with pytest.raises(PolicyError, match="does not name B"):
        check_participants(dataclasses.replace(sites["A"], policy=Policy(secure_sum_with=["SHA256:x"])), request)


def test_no_update_is_trained_twice_alike(sites: dict[str, Site]) -> None:
    """A simulated site trains as without a sum, but for a second attempt; a deployed one never as before."""
    plain = dataclasses.replace(asked(), secure_sum="", subjects="")
    assert drawn_as(sites["A"], plain) == drawn_as(deployed(sites["A"]), plain) == "A"
    names = [drawn_as(sites["A"], asked(number=number)) for number in (1, 2, 3)]
    assert names[0] == "A"
    assert len({*names}) == 3
    assert len({drawn_as(deployed(sites["A"]), asked()) for _ in range(3)} | {"A"}) == 4
