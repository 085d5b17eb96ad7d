"""The runner's small parts. The runner itself runs in tests/integration/test_runner.py."""

import os
from pathlib import Path

import pytest

from client.process.runner import allowed_s, main
from client.site.policy import Policy
from tests.support.requests_by_hand import deployed_site


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
    assert str(tmp_path / "secret") in capsys.readouterr().err


def test_a_site_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--site-file", str(tmp_path / "no.yaml"), "--secret-file", str(tmp_path / "secret")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_what_it_writes_is_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        main(["--site-file", str(tmp_path / "no.yaml"), "--secret-file", str(tmp_path / "secret")])
        assert os.umask(0o022) == 0o077
    finally:
        os.umask(before)
