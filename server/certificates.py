"""The coordinator's keys. A certificate authority is made once, and signs every server certificate. The key that signs
requests (`agi_core.signatures`) is made once, too.

Hospitals trust `ca.crt` and `coordinator.pub` alone, so a new server certificate changes nothing at any site.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agi_core.errors import ConfigError
from agi_core.host import atomic
from agi_core.signatures import public_line

CA_DAYS, SERVER_DAYS, WARN_DAYS = 3650, 365, 30
BACKDATED = datetime.timedelta(hours=1)  # a hospital's clock may be behind


class Certificates:
    """The files in `coordinator/certs`. Hospitals get `ca_path` and `public_path`. The three keys have mode 600."""

    def __init__(self, certs_dir: Path) -> None:
        self.dir = certs_dir
        self.ca_path = certs_dir / "ca.crt"
        self.ca_key_path = certs_dir / "ca.key"
        self.server_path = certs_dir / "server.crt"
        self.server_key_path = certs_dir / "server.key"
        self.request_key_path = certs_dir / "requests.key"
        self.public_path = certs_dir / "coordinator.pub"


def issue(certificates: Certificates, *, name: str, ips: Sequence[str]) -> None:
    """Make a server certificate for `name`, for `ips` and for this machine itself. Make the authority, and the key of
    requests, first if there is none yet.

    Raises:
        ConfigError: an address or name is malformed, half of the authority is missing, or a key cannot be used.
        RunError: the folder cannot be written.
    """
    names = [_dns_name(name), x509.DNSName("localhost")]
    addresses = [x509.IPAddress(_ip_address(ip)) for ip in dict.fromkeys(["127.0.0.1", *ips])]
    if not certificates.ca_path.exists() and not certificates.ca_key_path.exists():
        _make_authority(certificates)
    authority, authority_key = _read_authority(certificates)
    if not certificates.request_key_path.exists():
        if certificates.public_path.exists():
            raise ConfigError(_lost(certificates))
        _write_key(certificates.request_key_path, Ed25519PrivateKey.generate())
    public = public_line(read_request_key(certificates.request_key_path))
    atomic.write_text(certificates.public_path, f"{public} coordinator\n")

    key = ec.generate_private_key(ec.SECP384R1())
    certificate = (
        _builder(_subject(name), authority.subject, key.public_key(), days=SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([*dict.fromkeys(names), *addresses]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    _write_key(certificates.server_key_path, key)
    atomic.write_bytes(certificates.server_path, certificate.public_bytes(Encoding.PEM))


def names(certificates: Certificates) -> list[str]:
    """The names and IP addresses that the server certificate is for; none where there is no certificate to read."""
    try:
        certificate = x509.load_pem_x509_certificate(certificates.server_path.read_bytes())
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    return [str(name.value) for name in found]


def read_request_key(path: Path) -> Ed25519PrivateKey:
    """The key that signs requests. Raises ConfigError where the file cannot be used."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} cannot be used ({error}); restore it from a backup") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is no Ed25519 key; restore it from a backup")
    return key


def _lost(certificates: Certificates) -> str:
    """A new key would cut off every hospital that has compared the old one's fingerprint."""
    key, public = certificates.request_key_path, certificates.public_path
    return (
        f"{key} is missing, and {public}, which the hospitals have, belongs to it; restore {key.name} from a backup."
        f" Without one, delete {public.name}, make both anew with python -m server certs, and send every hospital the"
        f" new {public.name}"
    )


def expiry(certificates: Certificates) -> datetime.datetime:
    """When the server certificate ends (UTC).

    Raises:
        ConfigError: there is none, it cannot be read, or it has expired.
    """
    make = "make one with: python -m server certs --name HOST.NAME.OF.THE.COORDINATOR"
    needed = (certificates.ca_path, certificates.server_path, certificates.server_key_path)
    for path in (*needed, certificates.request_key_path):
        if not path.is_file():
            lost = path == certificates.request_key_path and certificates.public_path.exists()
            raise ConfigError(_lost(certificates) if lost else f"{path} does not exist; {make}")
    try:
        end = x509.load_pem_x509_certificate(certificates.server_path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise ConfigError(f"{certificates.server_path} cannot be read ({error}); {make}") from None
    if end < datetime.datetime.now(datetime.UTC):
        raise ConfigError(f"{certificates.server_path} expired on {end:%Y-%m-%d}; {make}")
    return end


def expires_soon(end: datetime.datetime) -> bool:
    """Whether less than `WARN_DAYS` are left."""
    return end - datetime.datetime.now(datetime.UTC) < datetime.timedelta(days=WARN_DAYS)


def _make_authority(certificates: Certificates) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _subject("AGI-Fed certificate authority")
    certificate = (
        _builder(subject, subject, key.public_key(), days=CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    _write_key(certificates.ca_key_path, key)
    atomic.write_bytes(certificates.ca_path, certificate.public_bytes(Encoding.PEM))


def _read_authority(certificates: Certificates) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(certificates.ca_path.read_bytes())
        key = load_pem_private_key(certificates.ca_key_path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the certificate authority in {certificates.dir} cannot be used ({error}); restore ca.crt and ca.key from"
            " a backup: a new authority would shut out every hospital that has the old ca.crt"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(f"{certificates.ca_key_path} is not the key of {certificates.ca_path}; restore both")
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> None:
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with atomic.replacing(path) as temporary_path:
        temporary_path.touch(mode=0o600, exist_ok=False)  # others can never read it, not even for a moment
        temporary_path.write_bytes(content)


def _dns_name(name: str) -> x509.DNSName:
    labels = name.split(".")
    if len(name) > 64 or not all(
        label and label.isascii() and label.replace("-", "").isalnum() and label.strip("-") == label for label in labels
    ):
        raise ConfigError(f"--name {name!r} is no host name; give the name that hospitals connect to, without https://")
    return x509.DNSName(name)


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(f"--ip {text!r} is no IP address, for example 192.0.2.10") from None
