import os
import subprocess
import sys
from pathlib import Path

import pytest

from agi_core.host.flower_environment import flower_environment


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_goes_to_flowers_makers_and_all_files_to_the_given_home(tmp_path: Path) -> None:
    made = flower_environment(tmp_path)
    assert (made["FLWR_TELEMETRY_ENABLED"], made["FLWR_DISABLE_UPDATE_CHECK"]) == ("0", "1")
    assert made["FLWR_HOME"] == str(tmp_path)


def test_flower_itself_understands_it(tmp_path: Path) -> None:
    code = "from flwr.supercore import telemetry; from flwr.supercore.utils import get_flwr_home; "
    code += "print(telemetry.FLWR_TELEMETRY_ENABLED, get_flwr_home())"
    environment = flower_environment(tmp_path)
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["0", str(tmp_path)]


@pytest.mark.parametrize(
    ("inherited", "made"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "intranet.example, localhost"}, "intranet.example,localhost,127.0.0.1"),
        ({"no_proxy": "a.example", "NO_PROXY": "b.example,"}, "a.example,b.example,127.0.0.1,localhost"),
    ],
)
def test_loopback_and_what_the_user_exempts_go_to_no_proxy(
    inherited: dict[str, str], made: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, hosts in inherited.items():
        monkeypatch.setenv(name, hosts)
    environment = flower_environment(tmp_path)
    assert environment["NO_PROXY"] == environment["no_proxy"] == made


def test_this_installations_programs_come_first_and_the_rest_is_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    environment = flower_environment(tmp_path)
    assert environment["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/usr/bin"
    assert environment["HTTPS_PROXY"] == "http://proxy.example:3128"
