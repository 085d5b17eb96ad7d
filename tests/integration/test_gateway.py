"""deploy/nginx.conf in a real nginx before a real SuperLink: hospitals get in, and nobody gets anything else."""

import asyncio
import contextlib
import http.client
import os
import secrets
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from real_processes import ROOT, free_port, needs_nginx, nginx, processes_of, until, with_changes

from client.__main__ import environment, programs
from client.check_connection import check_connection
from client.checks import PASSED
from client.keys import public_path, write_private
from client.new_site import write_site
from client.site import Coordinator as CoordinatorAddress
from client.site import DeployedSite, read_deployed_site
from server import superlink
from server.__main__ import main
from server.superlink import Coordinator

pytestmark = [pytest.mark.slow, needs_nginx]
NAME = "coordinator.example.org"  # resolves nowhere: only a proxy can reach it
CONTROL = "/v1/control/list-runs"


@dataclass
class Gateway:
    """nginx on `port`, a SuperLink behind it on `inner_port`, and the coordinator's folder."""

    port: int
    inner_port: int
    folder: Path

    @property
    def ca_path(self) -> Path:
        return self.folder / "certs" / "ca.crt"

    def connect(self, port: int) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.ca_path))
        return http.client.HTTPSConnection("localhost", port, context=context, timeout=30)

    def status(self, method: str, path: str, body: bytes = b"", *, inner: bool = False) -> int:
        """What the gateway, or the SuperLink itself, answers."""
        connection = self.connect(self.inner_port if inner else self.port)
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
    made = Gateway(free_port(), free_port(), place / "coordinator")
    conf_path = place / "agi-fed.conf"
    changes = {
        "127.0.0.1:8000": f"127.0.0.1:{made.inner_port}",
        "listen 443": f"listen 127.0.0.1:{made.port}",
        "/var/lib/agi-fed/coordinator": str(made.folder),
    }
    conf_path.write_text(with_changes((ROOT / "deploy" / "nginx.conf").read_text(), changes))
    assert main(["certs", "--dir", str(made.folder), "--name", NAME]) == 0
    ports = ("--port", str(made.inner_port), "--health-port", str(free_port()))
    up = subprocess.Popen(
        [sys.executable, "-m", "server", "up", "--dir", str(made.folder), *ports],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with nginx(place / "nginx", conf_path, port=made.port):
            until(lambda: answers(made) or up.poll() is not None, "the SuperLink answers")
            assert up.poll() is None
            yield made
    finally:
        up.terminate()
        up.wait(20)
        for process in processes_of(place):
            os.kill(process, signal.SIGKILL)


def answers(gateway: Gateway) -> bool:
    try:
        return gateway.status("GET", "/health", inner=True) == 200
    except OSError:
        return False


def new_site(gateway: Gateway, folder: Path, name: str, *, host: str) -> DeployedSite:
    """A registered hospital that connects to the gateway as `host`."""
    (folder / "sites").mkdir()
    site_path = folder / "sites" / f"{name}.yaml"
    address = f"{host}:{gateway.port}"
    key_path = write_site(site_path, site=name, data_dir=folder, layout="ixi", address=address, ca_path=gateway.ca_path)
    site_path.write_text(site_path.read_text().replace("runtime_port: 9094", f"runtime_port: {free_port()}"))
    assert main(["register", "--dir", str(gateway.folder), "--name", name, str(public_path(key_path))]) == 0
    return read_deployed_site(site_path)


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
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def is_online(gateway: Gateway) -> bool:
    return any(node["status"] == "online" for node in superlink.nodes(Coordinator(gateway.folder)).values())


def test_a_node_joins_through_the_gateway(gateway: Gateway, tmp_path: Path) -> None:
    site = new_site(gateway, tmp_path, "hospitalA", host="localhost")
    assert not is_online(gateway)
    with node_of(site):
        until(lambda: is_online(gateway), "the node is online")
    until(lambda: not is_online(gateway), "the node has left")


def test_a_node_joins_through_a_proxy(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hospital's machine cannot even resolve the coordinator's name: the proxy does. TLS ends at the gateway."""
    site = new_site(gateway, tmp_path, "hospitalB", host=NAME)
    with connect_proxy() as (proxy_url, asked), node_of(site, HTTPS_PROXY=proxy_url, https_proxy=proxy_url):
        until(lambda: is_online(gateway), "the node is online")
        assert set(asked) == {f"{NAME}:{gateway.port}"}  # loopback calls to the runner do not go there

        monkeypatch.setenv("https_proxy", proxy_url)
        rows = list(check_connection(CoordinatorAddress(f"{NAME}:{gateway.port}", str(gateway.ca_path))))
        assert [row for row in rows if row.state != PASSED] == []
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
        f'[superlink.gate]\naddress = "localhost:{gateway.port}"\nroot-certificates = "{gateway.ca_path}"\n'
    )
    finished = subprocess.run(
        [str(superlink.BIN_DIR / "flwr"), "list", "gate"],
        env=Coordinator(gateway.folder).environment() | {"FLWR_HOME": str(tmp_path)},
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
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    port = 0

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while part := await source.read(65536):
                sink.write(part)
                await sink.drain()
            sink.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = (await reader.readuntil(b"\r\n\r\n")).decode().split(maxsplit=2)
        assert method == "CONNECT"
        asked.append(target)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pipe(reader, upstream_writer), pipe(upstream_reader, writer))
        upstream_writer.close()
        writer.close()

    async def run(stop: asyncio.Event) -> None:
        nonlocal port
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(stop),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{port}", asked
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
