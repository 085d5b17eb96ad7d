"""Real programs for tests: ours, nginx with `deploy/nginx.conf`, a network that can be cut, and a look at what is still
alive."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")

HEADERS = ("user_agent", "flwr_package_version", "flwr_component_name", "flwr_timestamp", "flwr_public_key")
# Around the file that is tested: what Debian's own nginx.conf gives, in one folder; and a record of all that comes in.
AROUND = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    log_format everything escape=none '$status $request {headers} $request_body';
    access_log {folder}/received.log everything;
    include {conf_path};
}}
"""


def free_port() -> int:
    """A port that nobody has, nor the next one, which a runner takes too. It is below those that the kernel gives to
    outgoing connections: one of these could be another test's before the program that is meant to listen has begun."""
    outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = 10_000 + 2 * secrets.randbelow((outgoing - 10_000) // 2)
        with contextlib.suppress(OSError), socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port


def slowness() -> float:
    """How many times as long as on an idle machine work takes here at this moment: other programs may want the
    processor too, and limits in seconds are meant for a machine of one's own."""
    began, work = time.monotonic(), time.thread_time()
    while (worked := time.thread_time() - work) < 0.1:
        pass
    return (time.monotonic() - began) / worked


def until(condition: Callable[[], Any], what: str, *, deadline_s: float = 300.0) -> Any:
    """The first true value of the condition."""
    deadline = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.1)
    return value


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Program:
    """One of our commands in the background, with a log of its own; all that it starts has its folder in the
    environment, by which `processes_of` finds it. It runs `under` another program, such as strace."""

    process: subprocess.Popen[bytes]

    def __init__(
        self, folder: Path, package: str, *arguments: str | Path, under: Sequence[str | Path] = (), **variables: str
    ) -> None:
        self.folder, self.log_path = folder, folder / "terminal.txt"
        self._command = [*map(str, under), sys.executable, "-m", package, *map(str, arguments)]
        self._variables = {"PLACE": f"{folder}/", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=os.environ | self._variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def printed(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def processes(self) -> dict[int, str]:
        return processes_of(self.folder)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Ask it to end; the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(120)
        return time.monotonic() - began

    def kill(self) -> None:
        """Whatever is left of it."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None], *, host: str = "127.0.0.1") -> Iterator[int]:
    """The port of a server that serves each connection in a thread of its own."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):  # either end may go away at any time
                serve(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def join(one: socket.socket, other: socket.socket, *, whole: threading.Event | None = None) -> None:
    """Carry what either end says to the other, until both have ended; nothing while `whole` is not set."""

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                if whole is not None:
                    whole.wait()
                sink.sendall(part)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=carry, args=(other, one), daemon=True)
    back.start()
    carry(one, other)
    back.join()


@contextlib.contextmanager
def wire(target_port: int, *, host: str = "127.0.0.1") -> Iterator[tuple[int, threading.Event]]:
    """(port, whole): a way from a port of `host` to one of this machine. While `whole` is cleared it is cut: what is
    sent then neither arrives nor fails, as when a network goes away."""
    whole = threading.Event()
    whole.set()

    def serve(client: socket.socket) -> None:
        whole.wait()
        with socket.create_connection(("127.0.0.1", target_port)) as server:
            join(client, server, whole=whole)

    with listening(serve, host=host) as port:
        try:
            yield port, whole
        finally:
            whole.set()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the leader of a process group to stop, then kill what is left of the group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


@contextlib.contextmanager
def nginx(folder: Path, conf_path: Path, *, port: int) -> Iterator[Path]:
    """nginx with the file at `conf_path`, listening on `port`; the path of its record of all that it received."""
    assert NGINX is not None
    folder.mkdir()
    (folder / "nginx.conf").write_text(
        AROUND.format(folder=folder, conf_path=conf_path, headers=" ".join(f"$http_{name}" for name in HEADERS))
    )
    process = subprocess.Popen(
        [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: accepts(port) or process.poll() is not None, "nginx listens", deadline_s=20)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield folder / "received.log"
    finally:
        end(process)


def with_changes(text: str, changes: Mapping[str, str]) -> str:
    """The text with every key replaced by its value."""
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def processes_of(folder: Path) -> dict[int, str]:
    """{id: command line} of all processes that have the folder in their environment or command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            environment = (entry / "environ").read_bytes() if command else b""
        except OSError:
            continue
        if str(folder).encode() in command + environment:
            found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found
