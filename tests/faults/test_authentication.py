"""Whoever may not join is refused, and the hospital's terminal says why and what to do; `--check` too, where it can
tell. Real clients against a real SuperLink, or against a TLS server with the certificate in question."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.check.preflight import preflight
from client.site.file import DeployedSite
from client.site.keys import make_key
from client.site.new_site import write_site
from server import flower_cli
from server.coordinator import CoordinatorDir
from tests.support.federation_of_processes import Federation, Hospital, running
from tests.support.real_processes import free_port, until, wire
from tests.support.small_data import write_ixi
from tests.support.tls_servers import Authority, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with running(Federation(tmp_path_factory.mktemp("authentication"))) as federation:
        yield federation
        states = {node.status for node in flower_cli.nodes(CoordinatorDir(federation.dir)).values()}
        assert "online" not in states  # nobody was let in


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ixi(tmp_path_factory.mktemp("scans") / "ixi", {"Guys": 3})


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "another")


@pytest.fixture
def site(federation: Federation, data_dir: Path, request: pytest.FixtureRequest) -> DeployedSite:
    """A registered hospital, named after the test."""
    return federation.site(re.sub(r"\W", "-", request.node.name), data_dir)


def edit(federation: Federation, site: DeployedSite, old: str, new: str) -> Path:
    """The site file, with something else in it."""
    path = federation.folder / site.site / "sites" / f"{site.site}.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return path


@contextlib.contextmanager
def client(site_path: Path, **variables: str) -> Iterator[Hospital]:
    """`python -m client`, running."""
    hospital = Hospital(site_path.parent.parent, site_path, **variables)
    hospital.start()
    try:
        yield hospital
        assert not hospital.is_connected()
    finally:
        hospital.stop()
        hospital.kill()


def check_refused(site_path: Path, row: str, *sentences: str, **variables: str) -> None:
    """The client says all of it at its terminal, `--check` the first two in this row."""
    with client(site_path, **variables) as hospital:
        until(
            lambda: all(sentence in hospital.printed() for sentence in sentences),
            f"{sentences} in\n{hospital.printed()}",
        )
    rows = {found["what"]: found for found in preflight(site_path, scenario=None, on_row=print)["rows"]}
    assert rows[row]["state"] == "FAILED"
    assert sentences[0] in rows[row]["found"]


def test_wrong_ca(federation: Federation, site: DeployedSite, authority: Authority) -> None:
    site_path = edit(federation, site, str(federation.ca_path), str(authority.ca_path))
    check_refused(site_path, "TLS", "was not signed by the authority in coordinator.ca_file", "current ca.crt again")


def test_expired_certificate(federation: Federation, site: DeployedSite, authority: Authority) -> None:
    edit(federation, site, str(federation.ca_path), str(authority.ca_path))
    with serving(authority.server(days=(-200, -1))) as port:
        site_path = edit(federation, site, f"localhost:{federation.port}", f"localhost:{port}")
        check_refused(site_path, "TLS", "TLS certificate has expired", "ask the coordinator to renew the certificate")


def test_wrong_name(federation: Federation, site: DeployedSite) -> None:
    with wire(federation.port, host="127.0.0.2") as (port, _):
        site_path = edit(federation, site, f"localhost:{federation.port}", f"127.0.0.2:{port}")
        check_refused(site_path, "TLS", "is for another name than the one in coordinator.address", "the exact name")


def test_plaintext(federation: Federation, site: DeployedSite) -> None:
    """Of the coordinator; and the SuperLink answers none of the hospital's."""
    with serving(None) as port:
        site_path = edit(federation, site, f"localhost:{federation.port}", f"localhost:{port}")
        check_refused(site_path, "TLS", "does not speak TLS on this port", "ask the coordinator to switch TLS on")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://localhost:{federation.port}/v1/fleet/", trust_env=False)


def test_unregistered_key(federation: Federation, data_dir: Path, tmp_path: Path) -> None:
    site_path = tmp_path / "sites" / "stranger.yaml"
    site_path.parent.mkdir()
    address = f"localhost:{federation.port}"
    write_site(
        site_path,
        site="stranger",
        data_dir=data_dir,
        layout="ixi",
        address=address,
        ca_path=federation.ca_path,
        public_key=federation.public_key,
    )
    site_path.write_text(site_path.read_text().replace("runtime_port: 9094", f"runtime_port: {free_port()}"))
    sentences = ("refused this site's key", "ask the coordinator to register this site's public key")
    check_refused(site_path, "registration", *sentences)


def test_another_sites_key(federation: Federation, site: DeployedSite, data_dir: Path) -> None:
    """A hospital that was given the folder of another is told before anything is sent."""
    other = federation.site("owner", data_dir)
    site_path = edit(federation, site, f"../state/{site.site}/key/node", other.key_file)
    check_refused(site_path, "key", "is the key of site owner", "own with --new-key")


def test_a_forged_signature(federation: Federation, site: DeployedSite, tmp_path: Path) -> None:
    """The public key of a registered site, and the private key of another."""
    make_key(tmp_path / "key" / "node", site="forger")
    registered, own = (
        load_ssh_private_key(path.read_bytes(), None) for path in (Path(site.key_file), tmp_path / "key" / "node")
    )
    public = registered.public_key()
    interceptors = [RuntimeVersionHttpInterceptor(component_name="SuperNode"), NodeAuthHttpInterceptor(own, public)]
    with (
        FleetHttpClient.from_server_address(
            f"localhost:{federation.port}", False, federation.ca_path.read_bytes(), interceptors=interceptors
        ) as impostor,
        pytest.raises(httpx.HTTPStatusError, match="401"),
    ):
        impostor.ActivateNode(ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=30))


def test_a_clock_that_is_ahead(federation: Federation, site: DeployedSite, tmp_path: Path) -> None:
    """The programs' clock is set ahead, not the machine's."""
    (tmp_path / "clock-ahead").touch()
    ahead = {"PYTHONPATH": str(Path(__file__).parent / "injected"), "FAULTS": str(tmp_path)}
    site_path = edit(federation, site, "device: auto", "device: cpu")
    with client(site_path, **ahead) as hospital:
        until(lambda: "most often this machine's clock is more than 5 s" in hospital.printed(), "the sentence")
        assert "Set the clock (chronyc makestep" in hospital.printed()
    checked = subprocess.run(
        [sys.executable, "-m", "client", "--site-file", str(site_path), "--check"],
        env=os.environ | ahead | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 1
    assert re.search(r"FAILED +clock +this machine is (59|6\d)\.\d s ahead", checked.stdout)
