"""The coordinator's signature on a request (Ed25519): who asks, what, and whom.

Flower lets every registered node write to any other in the coordinator's name. So a deployed site answers only what is
signed by the key that its site file names. The signature covers all fields of the request, the weights, and the name of
the site, so that what one site is asked cannot be asked of another. It is the name and not Flower's number of the node,
which a site knows from the very message only.
"""

import dataclasses
import json

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from agi_core.errors import ConfigError, SignatureError
from agi_core.protocol import Request, hash_of, request_scalars


def sign(request: Request, key: Ed25519PrivateKey, *, site: str) -> Request:
    """The request with the signature that only this site accepts."""
    return dataclasses.replace(request, signature=key.sign(_signed(request, site)).hex())


def check(request: Request, public_key: str, *, site: str) -> None:
    """Raise SignatureError unless the request is signed for this site by the key whose OpenSSH line is `public_key`,
    and ConfigError where that is no such line."""
    key = read_public_key(public_key)
    try:
        key.verify(bytes.fromhex(request.signature), _signed(request, site))
    except (ValueError, InvalidSignature):
        raise SignatureError(
            "a request is not signed by this site's coordinator for this site, and was not answered; if it is the"
            " coordinator's, compare coordinator.public_key and the site's name with it"
        ) from None


def public_line(key: Ed25519PrivateKey) -> str:
    """The public half of a key, as one OpenSSH line."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def read_public_key(line: str) -> Ed25519PublicKey:
    """The key of an OpenSSH line. Raises ConfigError where it is none of Ed25519."""
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(
            f"coordinator.public_key {line[:40]!r} is no Ed25519 key; write there what the coordinator's file"
            " coordinator.pub holds: ssh-ed25519 AAAA..."
        )
    return key


def _signed(request: Request, site: str) -> bytes:
    """What is signed: unlike for every other request, and every other site."""
    fields = {name: value for name, value in request_scalars(request).items() if name != "signature"}
    return f"agi-fed request {hash_of(request.weights, after=json.dumps([site, fields], sort_keys=True))}".encode()
