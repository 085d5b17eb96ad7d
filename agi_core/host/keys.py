"""Public keys as people compare them."""

import base64
import hashlib


def fingerprint(public_key: str) -> str:
    """SHA256:... of an OpenSSH public key (`ecdsa-sha2-nistp384 BASE64 COMMENT`), as `ssh-keygen -lf` prints it."""
    digest = hashlib.sha256(base64.b64decode(public_key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
