import datetime
import ssl
import stat
from argparse import Namespace
from pathlib import Path

import pytest
from cryptography import x509

from agi_core.errors import ConfigError
from agi_core.signatures import public_line
from server import certificates, commands
from server.certificates import Certificates, read_request_key
from server.coordinator import CoordinatorDir


def handshake(files: Certificates, host: str) -> None:
    """A TLS handshake in memory between a server with these files and a hospital that has ca.crt alone."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(files.server_path, files.server_key_path)
    client_context = ssl.create_default_context(cafile=files.ca_path)
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.getpeercert() is not None


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    files = Certificates(tmp_path / "certs")
    certificates.issue(files, name="coord.example.org", ips=["192.0.2.10"])
    return files


@pytest.mark.parametrize("host", ["coord.example.org", "192.0.2.10", "127.0.0.1", "localhost"])
def test_hospitals_and_this_machine_trust_the_server(files: Certificates, host: str) -> None:
    handshake(files, host)


def test_another_name_is_not_trusted(files: Certificates) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="evil"):
        handshake(files, "evil.example.org")


def test_renewing_changes_nothing_at_the_hospitals(files: Certificates) -> None:
    before, server = files.ca_path.read_bytes(), files.server_path.read_bytes()
    public = files.public_path.read_text()
    certificates.issue(files, name="other.example.org", ips=[])
    assert files.ca_path.read_bytes() == before
    assert files.public_path.read_text() == public
    assert public == f"{public_line(read_request_key(files.request_key_path))} coordinator\n"
    assert files.server_path.read_bytes() != server
    handshake(files, "other.example.org")


def test_a_renewal_names_whom_it_cuts_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def certs(name: str, *ips: str) -> str:
        commands.certs(CoordinatorDir(tmp_path), Namespace(name=name, ip=[*ips]))
        return capsys.readouterr().out

    assert "give every hospital" in certs("coord.example.org", "192.0.2.10", "2001:DB8::1")
    assert "nothing changes at the hospitals" in certs("coord.example.org", "2001:db8::1", "192.0.2.10")
    told = certs("coord.example.org", "192.0.2.10")
    assert "but the last certificate was for 2001:db8::1 too" in told
    assert "nothing changes" not in told
    assert "was for coord.example.org, 192.0.2.10 too" in certs("other.example.org")


def test_keys_are_for_the_owner_alone(files: Certificates) -> None:
    for path in (files.ca_key_path, files.server_key_path, files.request_key_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_half_an_authority_is_not_replaced(files: Certificates) -> None:
    files.ca_key_path.unlink()
    with pytest.raises(ConfigError, match=r"restore ca.crt and ca.key"):
        certificates.issue(files, name="coord.example.org", ips=[])


def test_a_lost_key_of_requests_is_not_replaced(files: Certificates) -> None:
    public = files.public_path.read_text()
    files.request_key_path.unlink()
    for act in (
        lambda: certificates.issue(files, name="coord.example.org", ips=[]),
        lambda: certificates.expiry(files),
    ):
        with pytest.raises(
            ConfigError, match=r"coordinator.pub, which the hospitals have, .* restore requests.key from"
        ):
            act()
    assert files.public_path.read_text() == public


def test_one_year(files: Certificates) -> None:
    end = certificates.expiry(files)
    left = end - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=364) < left <= datetime.timedelta(days=365)
    assert not certificates.expires_soon(end)
    assert certificates.expires_soon(end - datetime.timedelta(days=340))


def test_an_expired_certificate_is_refused(files: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "SERVER_DAYS", 0)
    certificates.issue(files, name="coord.example.org", ips=[])
    with pytest.raises(ConfigError, match=r"expired on .* python -m server certs"):
        certificates.expiry(files)


def test_no_certificate_yet(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="python -m server certs --name"):
        certificates.expiry(Certificates(tmp_path))


def test_an_authority_signs_servers_only_once_removed(files: Certificates) -> None:
    authority = x509.load_pem_x509_certificate(files.ca_path.read_bytes())
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca
    assert constraints.path_length == 0


@pytest.mark.parametrize("name", ["https://coord.example.org", "", "a b", "-x.org", "x..org", "coord.example.org:8000"])
def test_a_name_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no host name"):
        certificates.issue(Certificates(tmp_path), name=name, ips=[])


def test_an_address_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no IP address"):
        certificates.issue(Certificates(tmp_path), name="x.org", ips=["300.1.1.1"])
    assert not list(tmp_path.iterdir())
