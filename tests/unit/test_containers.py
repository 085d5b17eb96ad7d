"""The image and its two compose files, read as an engine would."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.__main__ import _parser as client_parser
from server.__main__ import _parser as server_parser

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
STEPS = re.findall(r"^([A-Z]+) (.*?)(?<!\\)$", (DEPLOY / "Containerfile").read_text(), re.M | re.S)


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(DEPLOY.glob("compose-*.yaml")):
        found |= yaml.safe_load(path.read_text())["services"]
    return found


def test_the_image_copies_what_is_there_and_runs_as_nobody_of_importance() -> None:
    names = [name for name, _ in STEPS]
    assert names[0] == "FROM"
    for name, text in STEPS:
        if name == "COPY":
            *sources, _ = text.split()
            assert all((ROOT / source).exists() for source in sources), text
    assert names.index("USER") > max(place for place, name in enumerate(names) if name == "RUN")
    assert dict(STEPS)["USER"] == "10001"


def test_the_image_holds_every_package() -> None:
    copied = {text.split()[0] for name, text in STEPS if name == "COPY"}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages <= copied


@pytest.mark.parametrize("name", ["coordinator", "gateway", "hospital"])
def test_a_service_has_no_right_that_it_does_not_need(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] not in ("", "0", "root")
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(service)


def test_scans_cannot_be_written_and_only_the_gateway_is_reached() -> None:
    found = services()
    assert [volume for volume in found["hospital"]["volumes"] if "/data" in volume] == ["/data/ixi:/data:ro"]
    assert {name: service["ports"] for name, service in found.items() if "ports" in service} == {
        "coordinator": ["443:443"]
    }
    assert found["gateway"]["network_mode"] == "service:coordinator"  # and the SuperLink listens on loopback


def test_the_commands_are_ours() -> None:
    found = services()
    package, *arguments = found["coordinator"]["command"]
    assert (package, server_parser().parse_args(arguments).host) == ("server", "127.0.0.1")
    package, *arguments = found["hospital"]["command"]
    assert (package, client_parser().parse_args(arguments).site) == ("client", "hospitalA")
