"""The site's key, of which the public half alone ever leaves the site, and the authority that the site trusts."""

import os
import ssl
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from agi_core.errors import ConfigError, RunError
from agi_core.host import atomic
from agi_core.host.keys import certificate_fingerprint


def make_key(key_path: Path, *, site: str) -> None:
    """Make an EC P-384 key in OpenSSH format: `key_path` (mode 600, its folder 700) and `key_path`.pub, which names the
    site in its comment.

    An existing private key is kept, so that a registration is never lost; its public half is written again.

    Raises:
        ConfigError: the existing file is no such key. RunError: the folder cannot be written.
    """
    if not key_path.exists():
        private = ec.generate_private_key(ec.SECP384R1())
        with atomic.replacing(key_path) as temporary_path:
            key_path.parent.chmod(0o700)
            write_private(temporary_path, private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    atomic.write_text(public_path(key_path), f"{public_key(key_path)} {site}\n")


def replace_key(key_path: Path, *, site: str) -> None:
    """Make a new key in the place of the old one, which is kept beside it as `node.old`; there need not be one.

    Raises:
        RunError: the folder cannot be written.
    """
    if key_path.exists():
        old_path = key_path.with_name(f"{key_path.name}.old")
        try:
            key_path.replace(old_path)
        except OSError as error:
            raise RunError(f"{key_path} cannot be moved to {old_path} ({error.strerror})") from None
    make_key(key_path, site=site)


def trusted_authority(ca_path: Path) -> ssl.SSLContext:
    """TLS that trusts the coordinator's certificate authority, and no other. Raises ConfigError, which says what is
    wrong with its file."""
    try:
        certificate_fingerprint(ca_path)  # of the forms that ssl takes, PEM is the one that all programs read
        return ssl.create_default_context(cafile=str(ca_path))
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{ca_path} holds no certificate in PEM format") from None
    except OSError as error:
        raise ConfigError(f"{ca_path}: {error.strerror}") from None


def check_owner(key_path: Path, *, site: str) -> None:
    """Raise ConfigError when the file of the public half names another site. With a copied folder, one hospital would
    pass for another."""
    path = public_path(key_path)
    comment = path.read_text(encoding="utf-8", errors="replace").split()[2:] if path.is_file() else []
    if comment not in ([], [site]) and "@" not in comment[0]:  # USER@HOST, as ssh-keygen writes it, says nothing
        raise ConfigError(
            f"key_file {key_path} is the key of site {' '.join(comment)}, and this is {site}: each site must make its"
            " own with --new-key, and have it registered"
        )


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read, from its first byte on (mode 600)."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def public_path(key_path: Path) -> Path:
    """The file of the public half."""
    return key_path.with_name(f"{key_path.name}.pub")


def public_key(key_path: Path) -> str:
    """The public half of a private key file, as one OpenSSH line: what the coordinator registers. Raises ConfigError as
    `sign` does."""
    return _read(key_path).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def sign(key_path: Path, content: bytes) -> bytes:
    """The site's signature (ECDSA with SHA-384).

    Raises:
        ConfigError: the file cannot be read, or is no unencrypted elliptic-curve key in OpenSSH format.
    """
    return _read(key_path).sign(content, ec.ECDSA(SHA384()))


def _read(key_path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        private = load_ssh_private_key(key_path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"key_file {key_path}: {error.strerror}; make a key with --new-key") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            f"key_file {key_path} is no unencrypted private key in OpenSSH format; make one with --new-key"
        ) from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"key_file {key_path} is no elliptic-curve key; make one with --new-key")
    return private
