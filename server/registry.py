"""The registry: which hospitals may join, under which name and with which key. Flower has a list of its own, and
`sites.json` keeps what that list lacks.

`{name: {"public_key": OpenSSH line, "fingerprint": as ssh-keygen -lf, "subjects": n or null, "node_id": Flower's,
"modalities": [...] or null}}`. `sites.lock` beside it is held over each change, from the first look at the file on.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from agi_core.errors import ConfigError, RunError
from agi_core.host import atomic, lock
from agi_core.host.keys import fingerprint
from agi_core.names import is_site_name, skeleton
from agi_core.scenario import modality_parts
from server import flower_cli, flower_database
from server.coordinator import CoordinatorDir


@dataclass(frozen=True)
class Entry:
    """One registered site. `node_id` is None after a failed registration of an early release. `modalities` are those
    that it offers to runs over a vocabulary (None = it has not said)."""

    public_key: str
    fingerprint: str
    subjects: int | None = None
    node_id: int | None = None
    modalities: Sequence[str] | None = None


def read(coordinator: CoordinatorDir) -> dict[str, Entry]:
    """{site: entry}, in the order of names.

    Raises:
        RunError: sites.json is damaged.
    """
    path = coordinator.sites_path
    if not path.is_file():
        return {}
    try:
        return {name: Entry(**row) for name, row in sorted(json.loads(path.read_bytes()).items())}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged ({error}); restore it from a backup") from None


def register(
    coordinator: CoordinatorDir,
    *,
    name: str,
    key_path: Path,
    subjects: int | None,
    modalities: Sequence[str] | None = None,
) -> tuple[Entry, Literal["registered", "already registered"]]:
    """Let a hospital in under a name. A second registration with the same key changes `subjects` and `modalities`
    alone. It also mends a registration that Flower's database has lost. Nothing is written before Flower has let the
    site in.

    Raises:
        ConfigError: malformed name, key or modality, a name that looks like another site's, or the name or the key
            belongs to another registration.
        RunError: the coordinator does not answer, or its folder cannot be written.
    """
    if not is_site_name(name):
        raise ConfigError(f"--name {name!r} may hold letters (a to z), digits, - and _ only, at most 64")
    if subjects is not None and subjects < 1:
        raise ConfigError(f"--subjects {subjects} must be at least 1")
    for modality in modalities or ():
        try:
            modality_parts(modality)
        except ValueError as error:
            raise ConfigError(f"--modalities: {error}; write a list such as T1,T2") from None
    public_key = read_public_key(key_path)
    with lock.alone(coordinator.sites_path.with_suffix(".lock")):
        return _register(coordinator, name, public_key, subjects, modalities)


def _register(
    coordinator: CoordinatorDir, name: str, public_key: str, subjects: int | None, modalities: Sequence[str] | None
) -> tuple[Entry, Literal["registered", "already registered"]]:
    """With the lock held."""
    entries = read(coordinator)
    old = entries.get(name)
    if old is not None and old.public_key != public_key:
        raise ConfigError(
            f"{name} is registered with another key ({old.fingerprint}); if the hospital has made a new one, first run:"
            f" python -m server unregister {name}"
        )
    if alike := [other for other in entries if other != name and skeleton(other) == skeleton(name)]:
        raise ConfigError(
            f"--name {name} looks like {alike[0]}, which is registered; choose a name that nobody mixes up"
        )
    if taken := [other for other, entry in entries.items() if entry.public_key == public_key and other != name]:
        raise ConfigError(f"this key is registered as {taken[0]}; every site has its own key and one name")

    entry = old or Entry(public_key, fingerprint(public_key))
    entry = replace(entry, subjects=subjects or entry.subjects, modalities=modalities or entry.modalities)
    known = flower_cli.nodes(coordinator)
    if entry.node_id in known:
        _write(coordinator, {**entries, name: entry})
        return entry, "already registered"
    flower_database.free_keys(coordinator.database_path)
    with tempfile.TemporaryDirectory() as folder:
        copy_path = Path(folder) / "key.pub"
        copy_path.write_text(public_key + "\n", encoding="utf-8")
        node_id = flower_cli.register(coordinator, name=name, public_key_path=copy_path)
    if node_id is None:  # a crash came after Flower's note and before ours: it is the node that no entry names
        strays = set(known) - {other.node_id for other in entries.values()}
        if len(strays) != 1:
            raise RunError(
                f"Flower knows the key of {name} under a node id that {coordinator.sites_path} does not name;"
                " restore that file from a backup, or ask the hospital for a new key"
            )
        (node_id,) = strays
    entry = replace(entry, node_id=node_id)
    _write(coordinator, {**entries, name: entry})
    return entry, "registered"


def unregister(coordinator: CoordinatorDir, name: str) -> None:
    """Shut a hospital out and forget its key.

    Raises:
        ConfigError: no such site. RunError: the coordinator does not answer, or its folder cannot be written.
    """
    with lock.alone(coordinator.sites_path.with_suffix(".lock")):
        entries = read(coordinator)
        if name not in entries:
            raise ConfigError(f"{name} is not registered; registered: {', '.join(entries) or 'no site yet'}")
        node_id = entries.pop(name).node_id
        if node_id is not None and node_id in flower_cli.nodes(coordinator):
            flower_cli.unregister(coordinator, node_id)
        _write(coordinator, entries)


def read_public_key(path: Path) -> str:
    """The public key as an OpenSSH line without a comment.

    Raises:
        ConfigError: not readable, a private key, or not an elliptic-curve key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"key {path}: {error.strerror}; give the .pub file that the hospital sent") from None
    if b"PRIVATE KEY" in content:
        raise ConfigError(
            f"{path} is a private key, which must never leave its hospital; delete it here, ask the hospital to make"
            " a new one and to send the .pub file only"
        )
    try:
        key = load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} is no OpenSSH public key; ask the hospital for its .pub file again") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{path} is no elliptic-curve key; hospitals make theirs with: python -m client --init")
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _write(coordinator: CoordinatorDir, entries: dict[str, Entry]) -> None:
    atomic.write_json(coordinator.sites_path, {name: asdict(entry) for name, entry in sorted(entries.items())})
