"""The machine of the site: device, key, users, local port, state folder."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from agi_core.data.registration import check_installed
from agi_core.errors import ConfigError, RunError
from agi_core.host.device import open_device
from agi_core.host.keys import fingerprint
from agi_core.host.liveness import is_alive
from agi_core.segmentation.segmenter import read_segmenter
from client.check.rows import CheckRow, failed, passed, warning
from client.process.lock import client_runs, user_name
from client.site.file import DeployedSite
from client.site.keys import check_owner, public_key, public_path


def check_machine(site: DeployedSite) -> Iterator[CheckRow]:
    """Rows about the machine."""
    yield _device(site)
    if site.data.register == "rigid":
        yield _registration()
    if site.segmenter:
        yield _segmenter(Path(site.segmenter))
    key_path = Path(site.key_file)
    yield from _key(key_path, site.site)
    yield _users(key_path)
    yield _port(site)
    yield _state(Path(site.state_dir))


def _device(site: DeployedSite) -> CheckRow:
    try:
        device = open_device(site.device, threads=site.threads, compiled=site.compile)
        return passed("device", f"device={site.device}: {device} is usable, with {site.threads} CPU threads")
    except ConfigError as error:
        return failed("device", str(error), fix="set device in the site file")


def _registration() -> CheckRow:
    try:
        check_installed()
    except ConfigError as error:
        return failed("register", str(error), fix="install the extra, or set data.register: none")
    return passed("register", "rigid: SimpleITK is installed")


def _segmenter(path: Path) -> CheckRow:
    try:
        return passed("segmenter", f"{path} is the segmentation network {read_segmenter(path).hash}")
    except RunError as error:
        return failed("segmenter", str(error), fix="ask whoever sent the file, or take the line out of the site file")


def _key(key_path: Path, site: str) -> Iterator[CheckRow]:
    try:
        status = key_path.stat()
    except OSError as error:
        yield failed("key", f"{key_path}: {error.strerror}", fix="make a key with --new-key, or name it in key_file")
        return
    if not os.access(key_path, os.R_OK):
        owner = user_name(status.st_uid)
        yield passed("key", f"{key_path} belongs to user {owner}, who runs the node; not readable here")
        return
    open_to = stat.S_IMODE(status.st_mode) & 0o077
    if open_to:
        yield failed(
            "key",
            f"{key_path} has mode {stat.S_IMODE(status.st_mode):o}: others than its owner may use it",
            fix=f"chmod 600 {key_path}; if others had access, make a new key with --new-key and have it registered",
        )
    try:
        check_owner(key_path, site=site)
        yield passed("key", f"{key_path}, {fingerprint(public_key(key_path))}")
    except ConfigError as error:
        yield failed("key", str(error), fix=f"make a new key with --new-key and send {public_path(key_path)}")


def _users(key_path: Path) -> CheckRow:
    me = os.geteuid()
    if key_path.exists() and not os.access(key_path, os.R_OK):
        return passed("users", f"two: the node runs as the key's owner, this is {user_name(me)}")
    return warning(
        "users",
        f"one: node and runner both run as {user_name(me)}, so a fault in Flower's node could reach the scans",
        fix="fine for a trial; for real data use the two systemd units of docs/hospital.md, with two users",
    )


def _port(site: DeployedSite) -> CheckRow:
    what, place = "local ports", f"127.0.0.1:{site.runtime_port} and {site.health_port}"
    if client_runs(Path(site.state_dir)):
        return passed(what, f"{place} are this site's client's, which is running")
    for port in (site.runtime_port, site.health_port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if port == site.runtime_port and is_alive(site.health_port):
                    return passed(what, f"{place} are used by a node that is alive (a service of this machine)")
                return failed(
                    what,
                    f"127.0.0.1:{port}: {error.strerror}",
                    fix="set runtime_port in the site file so that this port and the next are free",
                )
    return passed(what, f"{place} are free")


def _state(state_dir: Path) -> CheckRow:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return failed("state folder", f"{state_dir}: {error.strerror}", fix="correct state_dir, or its permissions")
    if not os.access(state_dir, os.W_OK | os.X_OK):
        me = user_name(os.geteuid())
        return failed("state folder", f"{state_dir} cannot be written", fix=f"chown {me} {state_dir}")
    if stat.S_IMODE(state_dir.stat().st_mode) & 0o007:
        return warning(
            "state folder", f"{state_dir} is open to every user of this machine", fix=f"chmod 700 {state_dir}"
        )
    return passed("state folder", str(state_dir))
