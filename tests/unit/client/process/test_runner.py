"""The runner's small parts. The runner itself runs in tests/integration/test_runner.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.process.runner import allowed_s, main
from client.site.policy import Policy
from tests.support.real_processes import free_port, until
from tests.support.requests_by_hand import deployed_site

REFUSED = "error: The configuration was refused. python -m client --check says what is wrong."


@pytest.mark.parametrize(
    ("scalars", "seconds"),
    [({"deadline_s": 60}, 60), ({"deadline_s": 9999}, 600), ({"deadline_s": "60"}, 600), ({}, 600)],
)
def test_a_request_gets_the_time_it_asks_for_but_never_more_than_the_site_allows(
    scalars: dict[str, object], seconds: int
) -> None:
    assert allowed_s(scalars, Policy(max_deadline_s=600)) == seconds


@pytest.mark.parametrize("secret", [None, b""])
def test_a_secret_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], secret: bytes | None) -> None:
    if secret is not None:
        (tmp_path / "secret").write_bytes(secret)
    site_path = deployed_site(tmp_path, tmp_path)
    assert main(["--site-file", str(site_path), "--secret-file", str(tmp_path / "secret")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: the file of --secret-file {'is empty' if secret == b'' else 'cannot be read'}")
    assert str(tmp_path) not in printed


@pytest.mark.parametrize("text", [None, "site: [sub-0042", "site: sub-0042\n"])
def test_a_site_file_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None) -> None:
    """What is printed may stand in a journal, so it names no file and quotes none."""
    if text is not None:
        (tmp_path / "a.yaml").write_text(text)
    assert main(["--site-file", str(tmp_path / "a.yaml"), "--secret-file", str(tmp_path / "secret")]) == 1
    assert capsys.readouterr().err == f"{REFUSED}\n"


def test_a_state_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site_path = deployed_site(tmp_path, tmp_path)
    (tmp_path / "state").write_text("no folder")
    assert main(["--site-file", str(site_path), "--secret-file", str(tmp_path / "secret")]) == 1
    assert capsys.readouterr().err == f"{REFUSED}\n"


def test_no_proxy_stands_between_runner_and_node(tmp_path: Path) -> None:
    """Not even one that no HTTP client takes: it ended the runner at its start, although NO_PROXY exempts loopback."""
    (tmp_path / "secret").write_bytes(b"secret")
    site_path, out_path = deployed_site(tmp_path, tmp_path, port=free_port()), tmp_path / "out"
    with out_path.open("wb") as out:
        runner = subprocess.Popen(
            [sys.executable, "-m", "client.process.runner", "--site-file", site_path, "--secret-file", "secret"],
            cwd=tmp_path,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"ALL_PROXY": "socks5://127.0.0.1:1", "NO_PROXY": "127.0.0.1"},
        )
    try:
        until(lambda: runner.poll() is not None or "waiting for it" in out_path.read_text(), "it looks for its node")
        runner.terminate()
        assert runner.wait(30) == 0, out_path.read_text()
    finally:
        runner.kill()


def test_what_it_writes_is_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        main(["--site-file", str(tmp_path / "no.yaml"), "--secret-file", str(tmp_path / "secret")])
        assert os.umask(0o022) == 0o077
    finally:
        os.umask(before)
