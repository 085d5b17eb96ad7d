"""Real programs for tests: nginx with `deploy/nginx.conf`, and a look at what is still alive."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], what: str, *, deadline_s: float = 120.0) -> Any:
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
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


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
