"""deploy/nginx.conf in a real nginx before a real SuperLink: hospitals get in, and nobody gets anything else."""

import contextlib
import http.client
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agi_core.host.flower_environment import BIN_DIR, flower_environment
from client.check.connection import check_connection
from client.check.rows import CheckState
from client.process.join import environment, programs
from client.site.file import CoordinatorAddress, DeployedSite
from client.site.keys import write_private
from server import flower_cli
from server.coordinator import CoordinatorDir
from tests.support.federation_of_processes import Federation, running
from tests.support.real_processes import ROOT, end, free_port, join, listening, needs_nginx, nginx, until, with_changes

pytestmark = [pytest.mark.slow, needs_nginx]
NAME = "coordinator.example.org"  # resolves nowhere: only a proxy can reach it
CONTROL = "/v1/control/list-runs"


@dataclass
class Gateway:
    """nginx on `port`, before the SuperLink of a coordinator."""

    port: int
    federation: Federation

    def connect(self, port: int) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.federation.ca_path))
        return http.client.HTTPSConnection("localhost", port, context=context, timeout=30)

    def status(self, method: str, path: str, body: bytes = b"", *, inner: bool = False) -> int:
        """What the gateway, or the SuperLink itself, answers."""
        connection = self.connect(self.federation.port if inner else self.port)
        with contextlib.closing(connection):
            connection.putrequest(method, path)  # as it stands: http.client resolves no dots
            connection.putheader("Content-Type", "application/x-protobuf")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            with contextlib.suppress(BrokenPipeError, ssl.SSLEOFError, ConnectionResetError):  # refused before its end
                connection.send(body)
            return connection.getresponse().status


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    place = tmp_path_factory.mktemp("gateway")
    with running(Federation(place, name=NAME)) as federation:
        made = Gateway(free_port(), federation)
        conf_path = place / "agi-fed.conf"
        changes = {
            "127.0.0.1:8000": f"127.0.0.1:{federation.port}",
            "listen 443": f"listen 127.0.0.1:{made.port}",
            "/var/lib/agi-fed/coordinator": str(federation.dir),
        }
        conf_path.write_text(with_changes((ROOT / "deploy" / "nginx.conf").read_text(), changes))
        with nginx(place / "nginx", conf_path, port=made.port):
            yield made


@contextlib.contextmanager
def node_of(site: DeployedSite, **variables: str) -> Iterator[None]:
    """The hospital's node, as `python -m client` starts it, with more in its environment."""
    state_dir = Path(site.state_dir)
    secret_path = state_dir / "secret"
    write_private(secret_path, secrets.token_bytes(32))
    node, _ = programs(site, site_path=state_dir / "unused.yaml", secret_path=secret_path)
    with (state_dir / "node.log").open("wb") as log:
        process = subprocess.Popen(
            node.command,
            env=environment(state_dir) | variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{error}\n{(state_dir / 'node.log').read_text()[-3000:]}") from None
    finally:
        end(process)


def is_online(gateway: Gateway) -> bool:
    return any(node.status == "online" for node in flower_cli.nodes(CoordinatorDir(gateway.federation.dir)).values())


def test_a_node_joins_through_the_gateway(gateway: Gateway, tmp_path: Path) -> None:
    site = gateway.federation.site("hospitalA", tmp_path, port=gateway.port)
    assert not is_online(gateway)
    with node_of(site):
        until(lambda: is_online(gateway), "the node is online")
    until(lambda: not is_online(gateway), "the node has left")


def test_a_node_joins_through_a_proxy(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hospital's machine cannot even resolve the coordinator's name: the proxy does. TLS ends at the gateway."""
    site = gateway.federation.site("hospitalB", tmp_path, host=NAME, port=gateway.port)
    with connect_proxy() as (proxy_url, asked), node_of(site, HTTPS_PROXY=proxy_url, https_proxy=proxy_url):
        until(lambda: is_online(gateway), "the node is online")
        assert set(asked) == {f"{NAME}:{gateway.port}"}  # loopback calls to the runner do not go there

        monkeypatch.setenv("https_proxy", proxy_url)
        rows = list(check_connection(CoordinatorAddress(f"{NAME}:{gateway.port}", str(gateway.federation.ca_path))))
        assert [row for row in rows if row.state != CheckState.PASSED] == []
    until(lambda: not is_online(gateway), "the node has left")


@pytest.mark.parametrize(
    "path",
    [
        CONTROL,
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/health",
        "/docs",
        "/openapi.json",
        "/",
        "/v1/fleet",
        "/V1/FLEET/../control/list-runs",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/fleet//..//..//v1/control/list-runs",
        f"https://localhost{CONTROL}",
    ],
)
def test_nothing_but_the_fleet_path_is_let_through(gateway: Gateway, path: str) -> None:
    assert gateway.status("POST", path) == 403
    assert gateway.status("GET", path) == 403


def test_the_paths_that_are_shut_are_open_behind_the_gateway(gateway: Gateway) -> None:
    """Or the test above would prove nothing."""
    assert gateway.status("POST", CONTROL, inner=True) not in (401, 403, 404)
    assert gateway.status("POST", "/v1/fleet/pull-messages") == gateway.status(
        "POST", "/v1/fleet/pull-messages", inner=True
    )


def test_what_looks_like_the_fleet_path_reaches_no_other(gateway: Gateway) -> None:
    """Dots are resolved before the SuperLink sees the path."""
    assert gateway.status("POST", "/v1/control/../fleet/no-such-call") == 404
    assert gateway.status("POST", f"{CONTROL}/../../fleet/no-such-call") == 404


def test_the_flwr_command_does_not_get_through(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        f'[superlink.gate]\naddress = "localhost:{gateway.port}"\nroot-certificates = "{gateway.federation.ca_path}"\n'
    )
    finished = subprocess.run(
        [str(BIN_DIR / "flwr"), "list", "gate"],
        env=flower_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode != 0
    assert "run-id" not in finished.stdout.lower()


@pytest.mark.parametrize(("size_bytes", "fits"), [(5 * 2**20 + 2**16, True), (9 * 2**20, False)])
def test_a_chunk_of_weights_fits(gateway: Gateway, size_bytes: int, fits: bool) -> None:
    status = gateway.status("POST", "/v1/fleet/push-object", b"\0" * size_bytes)
    assert (status != 413) == fits


def test_tls_only(gateway: Gateway) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/fleet/")
        assert connection.getresponse().status == 400


@pytest.mark.parametrize(
    ("ciphers", "accepted"),
    [
        ("ECDHE-ECDSA-AES256-GCM-SHA384", True),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", True),
        ("ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA", False),  # CBC
        ("ECDHE-ECDSA-CAMELLIA256-SHA384", False),
        ("ECDHE-ECDSA-AES256-CCM8:ECDHE-ECDSA-AES256-CCM", False),
    ],
)
def test_authenticated_encryption_alone(gateway: Gateway, ciphers: str, accepted: bool) -> None:
    context = ssl.create_default_context(cafile=gateway.federation.ca_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    refusal = contextlib.nullcontext() if accepted else pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection, refusal:
        context.wrap_socket(connection, server_hostname="localhost").close()


@pytest.mark.parametrize("encrypted", [False, True])
def test_who_opens_a_connection_and_says_nothing_is_cut(gateway: Gateway, encrypted: bool) -> None:
    context = ssl.create_default_context(cafile=gateway.federation.ca_path)
    began = time.monotonic()
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=40)
    if encrypted:
        connection = context.wrap_socket(connection, server_hostname="localhost")
    with connection:
        if encrypted:
            connection.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\nX-Never: ")
        while connection.recv(4096):
            pass
    assert 5 < time.monotonic() - began < 20


def test_too_many_requests_are_told_to_come_again(gateway: Gateway) -> None:
    """Last, because it uses up the limit of this address."""
    connection = gateway.connect(gateway.port)
    with contextlib.closing(connection):

        def limited() -> bool:
            connection.request("GET", "/v1/fleet/no-such-call")
            response = connection.getresponse()
            response.read()
            assert response.status in (404, 503)
            return response.status == 503

        for _ in range(3000):
            if limited():
                return
    pytest.fail("no limit")


@contextlib.contextmanager
def connect_proxy() -> Iterator[tuple[str, list[str]]]:
    """A hospital's proxy: (its URL, the HOST:PORT that it was asked for). Every name leads to this machine."""
    asked: list[str] = []

    def serve(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        method, target, _ = head.decode().split(maxsplit=2)
        assert method == "CONNECT"
        asked.append(target)
        with socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2]))) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            join(client, server)

    with listening(serve) as port:
        yield f"http://127.0.0.1:{port}", asked
