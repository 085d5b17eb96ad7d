import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_public_key,
)

from agi_core.errors import ConfigError
from client.site.keys import check_owner, make_key, public_key, public_path, replace_key


def test_a_new_key_is_p384_and_closed_to_others(tmp_path: Path) -> None:
    key_path = tmp_path / "state" / "key" / "node"
    make_key(key_path, site="hospitalA")
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_path.parent.stat().st_mode) == 0o700
    text = public_path(key_path).read_text()
    assert text == f"{public_key(key_path)} hospitalA\n"
    loaded = load_ssh_public_key(text.encode())
    assert isinstance(loaded, ec.EllipticCurvePublicKey)
    assert loaded.curve.name == "secp384r1"
    assert sorted(path.name for path in key_path.parent.iterdir()) == ["node", "node.pub"]


def test_an_existing_key_is_kept_and_its_public_half_comes_back(tmp_path: Path) -> None:
    make_key(tmp_path / "node", site="hospitalA")
    before, public = (tmp_path / "node").read_bytes(), public_path(tmp_path / "node").read_text()
    public_path(tmp_path / "node").unlink()
    make_key(tmp_path / "node", site="hospitalA")
    assert (tmp_path / "node").read_bytes() == before
    assert public_path(tmp_path / "node").read_text() == public


def test_a_new_key_takes_the_place_of_the_old_one_or_of_none(tmp_path: Path) -> None:
    replace_key(tmp_path / "node", site="hospitalA")
    before = (tmp_path / "node").read_bytes()
    replace_key(tmp_path / "node", site="hospitalA")
    assert (tmp_path / "node").read_bytes() != before == (tmp_path / "node.old").read_bytes()
    assert stat.S_IMODE((tmp_path / "node.old").stat().st_mode) == 0o600
    assert public_path(tmp_path / "node").read_text() == f"{public_key(tmp_path / 'node')} hospitalA\n"


def test_a_copied_key_is_known_by_its_public_half(tmp_path: Path) -> None:
    make_key(tmp_path / "node", site="hospitalA")
    check_owner(tmp_path / "node", site="hospitalA")
    with pytest.raises(ConfigError, match=r"is the key of site hospitalA, and this is hospitalB.*--new-key"):
        check_owner(tmp_path / "node", site="hospitalB")
    for comment in ("", " somebody@somewhere"):  # made by ssh-keygen, or an earlier release
        public_path(tmp_path / "node").write_text(f"{public_key(tmp_path / 'node')}{comment}\n")
        check_owner(tmp_path / "node", site="hospitalB")


def test_what_is_no_such_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    other = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "ed25519").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    for name, cause in (("missing", "No such file"), ("text", "OpenSSH"), ("ed25519", "elliptic-curve")):
        with pytest.raises(ConfigError, match=cause):
            public_key(tmp_path / name)
