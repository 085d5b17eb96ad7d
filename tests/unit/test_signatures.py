import dataclasses
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agi_core.errors import ConfigError, SignatureError
from agi_core.protocol import Request, pack, read_request, request_scalars
from agi_core.signatures import check, public_line, read_public_key, sign

KEY = Ed25519PrivateKey.generate()
REQUEST = Request(
    action="train",
    run_id="run",
    round=3,
    nonce="nonce",
    task="{}",
    subjects="",
    deadline_s=60,
    weights=pack({"a": np.arange(4, dtype=np.float32)}),
)


def test_a_signed_request_is_accepted_after_the_journey() -> None:
    signed = sign(REQUEST, KEY, site="hospitalA")
    arrived = read_request(request_scalars(signed), signed.weights.arrays)
    check(arrived, f"{public_line(KEY)} a comment", site="hospitalA")


CHANGES: dict[str, Any] = {
    "action": "evaluate",
    "run_id": "run2",
    "round": 4,
    "nonce": "another",
    "task": '{"rounds":1}',
    "subjects": "test",
    "deadline_s": 61,
    "secure_sum": "{}",
    "study": "{}",
    "weights": pack({"a": np.arange(1, 5, dtype=np.float32)}),
    "signature": "not hexadecimal",
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Request)])
def test_every_field_is_signed(name: str) -> None:
    changed = dataclasses.replace(sign(REQUEST, KEY, site="hospitalA"), **{name: CHANGES[name]})
    with pytest.raises(SignatureError):
        check(changed, public_line(KEY), site="hospitalA")


def test_another_key_another_site_or_no_signature_is_refused() -> None:
    signed, other = sign(REQUEST, KEY, site="hospitalA"), Ed25519PrivateKey.generate()
    for request, key, site in ((signed, other, "hospitalA"), (signed, KEY, "hospitalB"), (REQUEST, KEY, "hospitalA")):
        with pytest.raises(SignatureError):
            check(request, public_line(key), site=site)


def test_what_is_no_such_key_is_named() -> None:
    other = ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    for line in ("", "ssh-ed25519 AAAA", "ssh-ed25519 of coordinator.pub", other.decode()):
        with pytest.raises(ConfigError, match=r"no Ed25519 key; .* coordinator\.pub"):
            read_public_key(line)
