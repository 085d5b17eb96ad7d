"""A site's part in a sum that shows no one's update (`agi_core.secure_sum`).

The site trusts the coordinator with nothing here. It verifies that each other site's key is signed by the registered
one, and, where it is deployed, that its own file names the latter. It looks at each value of its update, and clips it,
before it masks it. The key of an attempt lies in `state_dir/secure_sum` until a vector is masked with it, and is gone
before that vector leaves: no mask is used twice.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agi_core.errors import DivergedError, PolicyError, ProtocolError
from agi_core.host import atomic
from agi_core.host.keys import fingerprint
from agi_core.protocol import Packed, Request, pack
from agi_core.run.json_objects import JsonObject
from agi_core.secure_sum import Attempt, Participant, Vector, masked, statement
from client.site.file import DeployedSite, Site
from client.site.keys import make_key, public_key, sign

KEPT = 8  # runs: nobody outside may fill the disk with keys


@dataclass(frozen=True)
class _Key(JsonObject):
    """The site's newest key in a run: for which round and attempt. `private` is hexadecimal, "" once it was used."""

    round: int
    number: int
    private: str


def tell_key(site: Site, request: Request) -> Packed:
    """A new key for this attempt, signed by the site's own, as an array of bytes. Raises PolicyError where a deployed
    site's file names no other site."""
    if isinstance(site, DeployedSite) and site.policy.secure_sum_with is None:
        raise PolicyError(
            "policy.secure_sum_with is not set: list there the fingerprints of the other hospitals' keys, as these read"
            " them to you by telephone, or this site takes part in no secure sum"
        )
    private, number, path = X25519PrivateKey.generate(), Attempt.of(request).number, _path(site, request)
    atomic.write_json(path, _Key(request.round, number, private.private_bytes_raw().hex()).to_json())
    atomic.keep_newest(path, most=KEPT)
    key_path, ephemeral = _key_path(site), private.public_key().public_bytes_raw().hex()
    signature = sign(key_path, statement(request, site=site.site, ephemeral=ephemeral)).hex()
    told = Participant(public_key(key_path), ephemeral, signature)
    return pack({"key": np.frombuffer(json.dumps(told.to_json()).encode(), np.uint8)})


def check_participants(site: Site, request: Request) -> None:
    """Whether the site's update may be in this sum, before it trains for it.

    Raises:
        PolicyError: the site's file does not name every other participant.
        ProtocolError: fewer than three take part, a key is not signed by its site, or this site's is not its newest.
    """
    attempt = Attempt.of(request)
    attempt.check(request)
    _private(site, request, attempt)
    others = {name: fingerprint(its.public_key) for name, its in attempt.participants.items() if name != site.site}
    named = site.policy.secure_sum_with
    if named is None and not isinstance(site, DeployedSite):  # nothing leaves the machine
        return
    if strangers := [f"{name} {key}" for name, key in sorted(others.items()) if key not in (named or ())]:
        raise PolicyError(
            f"policy.secure_sum_with does not name {', '.join(strangers)}; a coordinator can invent"
            " sites, so have each hospital read its fingerprint to you by telephone before you write it there"
        )


def drawn_as(site: Site, request: Request) -> str:
    """In whose name crops are drawn: the site's own; for a sum at a deployed site, and for a new attempt, in one of its
    own. So no update is ever the same again, and no difference of two sums is that of the sites that they differ by."""
    if not request.secure_sum:
        return site.site
    if isinstance(site, DeployedSite):
        return f"{site.site} {secrets.token_hex(16)}"
    number = Attempt.of(request).number
    return site.site if number == 1 else f"{site.site} {number}"


def mask(site: Site, request: Request, *, update: Vector, subjects: int) -> Packed:
    """The update as it leaves: clipped to the attempt's bound, times `subjects`, and masked with the site's key, which
    is forgotten first.

    Raises:
        DivergedError: a value is not finite. ProtocolError: as `check_participants`. RunError: the key stays on disk.
    """
    attempt = Attempt.of(request)
    with np.errstate(over="ignore", invalid="ignore"):
        norm = float(np.linalg.norm(update))
    if not np.isfinite(norm):
        raise DivergedError(f"the update of {site.site} is not finite; start a new run with a lower learning rate")
    private = _private(site, request, attempt)
    atomic.write_json(_path(site, request), _Key(request.round, attempt.number, "").to_json())
    if norm > attempt.bound:
        update = update * (attempt.bound / norm)
    return pack({"sum": masked(update, request, site=site.site, private=private, subjects=subjects)})


def _private(site: Site, request: Request, attempt: Attempt) -> X25519PrivateKey:
    """The key that the site told for this attempt, if it is still unused, and the one that is said to be its own."""
    key, own = _Key.read(_path(site, request)), attempt.participants.get(site.site)
    if key is None or (key.round, key.number) != (request.round, attempt.number) or not key.private:
        raise ProtocolError(f"{site.site} has no unused key for attempt {attempt.number} of round {request.round}")
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(key.private))
    if own is None or own.ephemeral != private.public_key().public_bytes_raw().hex():
        raise ProtocolError(f"the key that {site.site} has told for this secure sum is not in it")
    return private


def _key_path(site: Site) -> Path:
    """The registered key of a deployed site; a simulated one makes its own."""
    if isinstance(site, DeployedSite):
        return Path(site.key_file)
    path = Path(site.state_dir) / "key" / "node"
    if not path.exists():
        make_key(path, site=site.site)
    return path


def _path(site: Site, request: Request) -> Path:
    """One file per run. A coordinator's text never becomes a path."""
    return Path(site.state_dir) / "secure_sum" / f"{hashlib.sha256(request.run_id.encode()).hexdigest()[:24]}.json"
