import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agi_core.host.keys import certificate_fingerprint, fingerprint
from tests.support.tls_servers import Authority

# GitHub's host key with the fingerprint that it publishes
GITHUB = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
GITHUB_FINGERPRINT = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"


def test_a_published_fingerprint() -> None:
    assert fingerprint(GITHUB) == fingerprint(f"{GITHUB} git@github.com\n") == GITHUB_FINGERPRINT


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is the oracle")
def test_the_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    public = ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (tmp_path / "node.pub").write_bytes(public)
    printed = subprocess.run(["ssh-keygen", "-lf", tmp_path / "node.pub"], capture_output=True, text=True, check=True)
    assert printed.stdout.split()[1] == fingerprint(public.decode())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is the oracle")
def test_the_fingerprint_of_a_certificate_is_that_of_openssl(tmp_path: Path) -> None:
    ca_path = Authority(tmp_path / "pki").ca_path
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", ca_path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip().rpartition("=")[2] == certificate_fingerprint(ca_path)
