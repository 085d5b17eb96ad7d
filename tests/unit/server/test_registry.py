import contextlib
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agi_core.errors import ConfigError, RunError
from server import registry
from server.__main__ import main
from server.coordinator import CoordinatorDir
from tests.support.flwr_program import stand_in

KEY = ec.generate_private_key(ec.SECP384R1())
PUBLIC = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def test_a_comment_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "k.pub").write_bytes(PUBLIC + b" jane@hospital-a\n")
    assert registry.read_public_key(tmp_path / "k.pub") == PUBLIC.decode()


def test_what_is_no_public_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(ConfigError, match=r"give the .pub file"):
        registry.read_public_key(path)
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    with pytest.raises(ConfigError, match="must never leave its hospital"):
        registry.read_public_key(path)
    path.write_text("hello")
    with pytest.raises(ConfigError, match="no OpenSSH public key"):
        registry.read_public_key(path)
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    path.write_bytes(other.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    with pytest.raises(ConfigError, match="no elliptic-curve key"):
        registry.read_public_key(path)


@pytest.mark.parametrize("name", ["", "a b", "../x", ".hidden", "x" * 65, "a.b", "ä"])
def test_names_that_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--name"):
        registry.register(CoordinatorDir(tmp_path), name=name, key_path=tmp_path / "k.pub", subjects=None)


def test_modalities_that_are_no_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="--modalities: T 2 is not the name of a modality; write a list such as T1,T2"
    ):
        registry.register(
            CoordinatorDir(tmp_path), name="A", key_path=tmp_path / "k", subjects=None, modalities=["T1", "T 2"]
        )


def test_a_name_that_looks_like_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k.pub").write_bytes(PUBLIC)
    (tmp_path / "sites.json").write_text('{"hospital1": {"public_key": "k", "fingerprint": "f"}}')
    with pytest.raises(ConfigError, match="--name hospitalI looks like hospital1, which is registered"):
        registry.register(CoordinatorDir(tmp_path), name="hospitalI", key_path=tmp_path / "k.pub", subjects=None)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "sites.json").write_text('{"a": {"unknown": 1}}')
    with pytest.raises(RunError, match=r"sites.json is damaged .* restore it"):
        registry.read(CoordinatorDir(tmp_path))


def test_unregistering_a_stranger(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="registered: no site yet"):
        registry.unregister(CoordinatorDir(tmp_path), "hospitalA")


def test_two_who_register_at_once_lose_no_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = CoordinatorDir(tmp_path)
    flwr = stand_in(coordinator, tmp_path / "bin", monkeypatch)
    flwr.answers("supernode", {"nodes": [], "node-id": "1"})
    flwr.takes(0.3)
    with contextlib.closing(sqlite3.connect(coordinator.database_path)) as flower:
        flower.execute("CREATE TABLE node (public_key TEXT, status TEXT)")

    def register(name: str) -> None:
        key = ec.generate_private_key(ec.SECP384R1()).public_key()
        key_path = tmp_path / f"{name}.pub"
        key_path.write_bytes(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
        registry.register(coordinator, name=name, key_path=key_path, subjects=9)

    with ThreadPoolExecutor() as pool:
        list(pool.map(register, ["A", "B"]))
    assert list(registry.read(coordinator)) == ["A", "B"]
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(registry.unregister, coordinator), ["A", "B"]))
    assert registry.read(coordinator) == {}


def test_a_folder_that_is_misspelt_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "k.pub").write_bytes(PUBLIC)
    with pytest.raises(RunError, match="has not been started yet"):
        registry.register(CoordinatorDir(tmp_path / "co"), name="A", key_path=tmp_path / "k.pub", subjects=9)
    assert not (tmp_path / "co").exists()


def test_a_registration_that_fails_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = CoordinatorDir(tmp_path)
    (tmp_path / "k.pub").write_bytes(PUBLIC)
    stand_in(coordinator, tmp_path / "bin", monkeypatch).answers("supernode", {"nodes": []})
    with pytest.raises(RunError, match=r"state\.db cannot be written"):  # nobody has made Flower's tables
        registry.register(coordinator, name="A", key_path=tmp_path / "k.pub", subjects=9)
    assert not coordinator.sites_path.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], []),
        (["--subjects", "9"], ["a run that goes on counts so many after: python -m server stop, then resume"]),
        (["--modalities", "T1,T2"], ["runs that were submitted keep what it offered; the next submit uses it"]),
    ],
)
def test_it_is_said_which_runs_use_what_has_changed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: list[str],
) -> None:
    coordinator = CoordinatorDir(tmp_path)
    (tmp_path / "k.pub").write_bytes(PUBLIC)
    coordinator.sites_path.write_text(json.dumps({"A": vars(registry.Entry(PUBLIC.decode(), "SHA256:A", node_id=1))}))
    flwr = stand_in(coordinator, tmp_path / "bin", monkeypatch)
    flwr.answers("supernode", {"nodes": [{"node-id": 1, "status": "registered"}]})
    assert main(["register", "--dir", str(tmp_path), "--name", "A", str(tmp_path / "k.pub"), *options]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == said
