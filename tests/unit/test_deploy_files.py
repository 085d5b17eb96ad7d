"""The files of a deployment, read beside the code that they speak of."""

import dataclasses
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.proto import error_pb2, fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore import constant as flower_headers

from agi_core import errors
from agi_core.host import atomic
from agi_core.protocol import ALLOWED_METRICS, PROTOCOL_VERSION, Packed, Reply, reply_scalars
from client.border.egress import DECIMALS
from client.site.file import DeployedSite, read_deployed_site
from client.site.new_site import write_site
from client.work.site_ledger import open_site_ledger
from tests.support import runbook
from tests.support.real_processes import with_changes

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
FLEET_CALLS = [
    fleet_pb2.ActivateNodeRequest,
    fleet_pb2.DeactivateNodeRequest,
    fleet_pb2.PullMessagesRequest,
    fleet_pb2.PushMessagesRequest,
    heartbeat_pb2.SendNodeHeartbeatRequest,
    message_pb2.ConfirmMessageReceivedRequest,
    message_pb2.PullObjectRequest,
    message_pb2.PushObjectRequest,
    run_pb2.GetRunRequest,
    fab_pb2.GetFabRequest,
]


def documented(section: str) -> set[str]:
    """The fields in the table below a heading of docs/egress.md."""
    text = (ROOT / "docs" / "egress.md").read_text()
    (body,) = re.findall(rf"^### {section}\n(.*?)(?=^#|\Z)", text, re.S | re.M)
    first_cells = re.findall(r"^\| (`.*?) \|", body, re.M)
    return {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}


def test_egress_lists_every_field_of_a_reply() -> None:
    scalars = reply_scalars(
        Reply(run_id="run", round=1, nonce="nonce", num_examples=1, metrics={}, weights=Packed({}, "[]"))
    )
    assert documented("Reply") == set(scalars) | {field.name for field in dataclasses.fields(Reply)}
    assert scalars["protocol"] == PROTOCOL_VERSION == 5


def test_egress_lists_every_metric_that_may_leave() -> None:
    assert documented("Metrics") == ALLOWED_METRICS
    assert f"rounded to {DECIMALS} decimals" in (ROOT / "docs" / "egress.md").read_text()


def test_an_error_has_no_other_text_than_the_fixed_sentences() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.AgiError)]
    assert len(classes) > 5
    assert all(isinstance(kind.public, str) for kind in classes)


@pytest.mark.parametrize("message", FLEET_CALLS, ids=lambda message: str(message.DESCRIPTOR.name))
def test_egress_lists_every_field_of_flower(message: Any) -> None:
    assert documented(message.DESCRIPTOR.name) == set(message.DESCRIPTOR.fields_by_name)


def test_egress_lists_what_flower_writes_on_the_envelope() -> None:
    assert documented("Metadata") == set(message_pb2.Metadata.DESCRIPTOR.fields_by_name)
    assert documented("Error") == set(error_pb2.Error.DESCRIPTOR.fields_by_name)
    names = ("FLEET_HTTP_PUBLIC_KEY_HEADER", "FLEET_HTTP_SIGNATURE_HEADER")
    names += ("FLWR_PACKAGE_NAME_METADATA_KEY", "FLWR_PACKAGE_VERSION_METADATA_KEY", "FLWR_COMPONENT_NAME_METADATA_KEY")
    headers = {getattr(flower_headers, name) for name in names}
    assert documented("Headers of every call") == headers | {"flwr-timestamp", "user-agent"}


def test_no_call_of_a_node_is_forgotten() -> None:
    """The paths that Flower's node knows, but for registration, which the coordinator does by hand."""
    source = (Path(fleet_pb2.__file__).parents[1] / "supernode" / "fleet_http_client.py").read_text()
    calls = set(re.findall(r'"/v1/fleet/([a-z-]+)"', source)) - {"register-node", "unregister-node"}
    ours = {re.sub(r"(?<=[a-z])(?=[A-Z])", "-", m.DESCRIPTOR.name.removesuffix("Request")).lower() for m in FLEET_CALLS}
    assert ours == calls


@pytest.mark.parametrize("name", runbook.RUNBOOKS)
def test_every_command_of_a_runbook_is_run_or_marked(name: str) -> None:
    text = (runbook.DOCS / name).read_text()
    assert len(runbook.blocks(name)) == text.count("```bash")


def test_the_gateway_has_few_lines_to_change() -> None:
    lines = (ROOT / "deploy" / "nginx.conf").read_text().splitlines()
    assert len([line for line in lines if "# CHANGE" in line]) == 3
    assert [line.split() for line in lines if line.strip().startswith("location")] == [
        ["location", "/v1/fleet/", "{"],
        ["location", "/", "{"],
        ["location", "=", "/v1/fleet", "{"],
    ]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.stem))
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for other in UNITS:  # they name each other, and programs of an installation
        text = other.read_text().replace("/opt/agi-fed/.venv/bin", str(Path(sys.executable).parent))
        (tmp_path / other.name).write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    complaints = [line for line in verified.stderr.splitlines() if unit.name in line]  # not those about the machine
    assert complaints == []
    assert verified.returncode == 0, verified.stderr


def settings(unit: str) -> Mapping[str, list[str]]:
    """{name: values} of a unit file."""
    text = (ROOT / "deploy" / "systemd" / f"{unit}.service").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^([A-Za-z]+)=(.*)$", text, re.M):
        found.setdefault(name, []).append(" ".join(value.split()))
    return found


def test_node_and_runner_are_two_users_that_reach_no_further_than_they_must() -> None:
    node, runner, coordinator = settings("agi-fed-node"), settings("agi-fed-runner"), settings("agi-fed-coordinator")
    assert node["User"] != runner["User"]
    for unit in (node, runner, coordinator):
        assert unit["IPAddressDeny"] == ["any"]
        assert unit["NoNewPrivileges"] == ["yes"]
        assert re.fullmatch(r"\d+[%G]", *unit["MemoryMax"])
        assert 0 < int(unit["TasksMax"][0]) <= 1024
        assert unit["ProtectSystem"] == ["strict"]
        assert unit["KillMode"] == ["control-group"]
        assert int(unit["RestartSec"][0]) >= 10
        assert unit["StartLimitIntervalSec"] == ["0"]
    assert runner["IPAddressAllow"] == coordinator["IPAddressAllow"] == ["localhost"]
    assert runner["ReadOnlyPaths"] == ["/data"]
    assert "-/data" in node["InaccessiblePaths"][0]
    environment = " ".join(node["Environment"])
    for variable in ("FLWR_TELEMETRY_ENABLED=0", "FLWR_DISABLE_UPDATE_CHECK=1", "NO_PROXY=127.0.0.1,localhost"):
        assert variable in environment


def test_the_node_unit_starts_what_the_client_starts(tmp_path: Path) -> None:
    """The same program with the same options as `python -m client`."""
    from client.process.join import programs

    (tmp_path / "sites").mkdir()
    site_path = tmp_path / "sites" / "hospitalA.yaml"
    write_site(site_path, site="hospitalA", data_dir=None, layout="ixi", address=None, ca_path=None)
    node, runner = programs(read_deployed_site(site_path), site_path=site_path, secret_path=tmp_path / "secret")

    def options(command: str) -> list[str]:
        return re.findall(r"(?<= )--?[a-z-]+", command)

    assert options(settings("agi-fed-node")["ExecStart"][0]) == options(" ".join(node.command))
    assert options(settings("agi-fed-runner")["ExecStart"][0]) == options(" ".join(runner.command))


def services_site(tmp_path: Path, *, private: bool = False) -> DeployedSite:
    """The trial's site file, made into that of the two services by the command of the hospital's runbook."""
    (tmp_path / "sites").mkdir()
    write_site(
        tmp_path / "sites" / "hospitalA.yaml",
        site="hospitalA",
        data_dir=Path("/data/ixi"),
        layout="ixi",
        address="coordinator.example.org:443",
        ca_path=Path("ca.crt"),
    )
    if private:
        path = tmp_path / "sites" / "hospitalA.yaml"
        rules, privacy = path.read_text().split("# privacy:")
        path.write_text(rules + "privacy:" + privacy.replace("\n# ", "\n"))
    command = runbook.commands("hospital.md")["services"]
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True, timeout=20)
    return read_deployed_site(tmp_path / "hospitalA-services.yaml")


def test_the_services_site_file_is_valid(tmp_path: Path) -> None:
    site = services_site(tmp_path)
    assert site.state_dir == f"/var/lib/{settings('agi-fed-runner')['StateDirectory'][0]}"
    assert site.cache_dir == "/var/lib/agi-fed/cache"
    assert (site.key_file, site.coordinator.ca_file) == ("/etc/agi-fed/key/node", "/etc/agi-fed/ca.crt")
    for path in (site.key_file, site.coordinator.ca_file, f"--port {site.runtime_port}"):
        assert path in settings("agi-fed-node")["ExecStart"][0]


def test_the_services_remember_what_the_trial_did(tmp_path: Path) -> None:
    """The runbook's commands that need root, carried out in another place: its ledger is the one that was begun."""
    there = tmp_path / "var"
    site = services_site(tmp_path, private=True)
    trial = read_deployed_site(tmp_path / "sites" / "hospitalA.yaml")
    assert trial.privacy is not None
    with open_site_ledger(trial, trial.privacy) as ledger:
        identity = ledger.identity
    state_dir = Path(trial.state_dir)
    lasting = ("split.json", "told.json", "images.jsonl", "audit.jsonl", "studies/a.json")
    for name in (*lasting, "cache/scan", "logs/node.log"):
        atomic.write_text(state_dir / name, name)

    (block,) = [text for text in runbook.blocks("hospital.md") if "useradd" in text]
    lines = [line for line in block.splitlines() if "/var/lib/agi-fed" in line and "useradd" not in line]
    places = {"sudo ": "", "/var/lib/agi-fed": str(there), "agi-runner:agi-fed": f"{os.getuid()}:{os.getgid()}"}
    subprocess.run(["bash", "-euc", with_changes("\n".join(lines), places)], cwd=tmp_path, check=True, timeout=20)
    kept = {"split.json", "told.json", "images.jsonl", "audit.jsonl", "studies", "privacy", "ledgers.json", "heads"}
    assert {path.name for path in there.iterdir()} == kept
    assert stat.S_IMODE(there.stat().st_mode) == 0o700

    path = tmp_path / "hospitalA-services.yaml"
    path.write_text(path.read_text().replace("/var/lib/agi-fed", str(there)))
    moved = read_deployed_site(path)
    assert site.privacy is not None
    assert moved.privacy is not None
    assert Path(site.privacy.ledger_head).is_relative_to(site.state_dir)  # all that the runner's unit can write
    with open_site_ledger(moved, moved.privacy) as ledger:
        assert ledger.identity == identity
