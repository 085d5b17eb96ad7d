"""Public keys and certificates as people compare them."""

import base64
import hashlib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes


def fingerprint(public_key: str) -> str:
    """SHA256:... of an OpenSSH public key (`ecdsa-sha2-nistp384 BASE64 COMMENT`), as `ssh-keygen -lf` prints it."""
    digest = hashlib.sha256(base64.b64decode(public_key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def certificate_fingerprint(path: Path) -> str:
    """AB:CD:... of the SHA-256 of a certificate (PEM), as `openssl x509 -noout -fingerprint -sha256 -in` prints it.

    Raises:
        OSError, ValueError: there is no certificate in the file.
    """
    return x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(hashes.SHA256()).hex(":").upper()
