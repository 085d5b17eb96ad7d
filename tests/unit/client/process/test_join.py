"""Joining: what is said before, which programs are started, and how they end. The node and the runner are real."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from agi_core import signatures
from agi_core.errors import ConfigError, RunError
from agi_core.host.keys import fingerprint
from client.process.join import announcement, environment, join, programs
from client.process.lock import only_client
from client.site.file import read_deployed_site
from client.site.keys import make_key, public_key
from client.site.new_site import write_site
from tests.support.real_processes import free_port
from tests.support.small_data import write_ixi

DEADLINE_S = 60.0
PUBLIC = signatures.public_line(Ed25519PrivateKey.generate())


@pytest.fixture
def site_path(tmp_path: Path) -> Path:
    path = tmp_path / "sites" / "hospitalA.yaml"
    address = "agi.example.org:443"
    write_site(path, site="hospitalA", data_dir=None, layout="ixi", address=address, ca_path=None, public_key=PUBLIC)
    return path


def test_what_leaves_is_announced(site_path: Path) -> None:
    site = read_deployed_site(site_path)
    text = announcement(site, public_key(Path(site.key_file)))
    for words in (
        "model's weights",
        "fewer than 10 subjects",
        "train_loss",
        "agi.example.org:443 only",
        f"signed with the coordinator's\nkey {fingerprint(PUBLIC)}",
        "scans, file names",
        "texts of errors, the site's own last layer.",
    ):
        assert words in text
    site_path.write_text(site_path.read_text().replace("share_last_layer: false", "share_last_layer: true"))
    text = announcement(read_deployed_site(site_path), public_key(Path(site.key_file)))
    assert "at a run's end, the site's own last layer, solved from the site's own subjects without noise" in text
    assert "and the statistics that a last layer for all sites is solved from" in text
    assert "texts of errors.\n" in text


@pytest.mark.parametrize(
    ("metrics", "listed"),
    [("[]", "none (policy.metrics)"), ("[psnr_db, ssim]", "psnr_db, ssim")],
)
def test_the_figures_that_may_leave_are_announced(site_path: Path, metrics: str, listed: str) -> None:
    rule = "  share_last_layer: false"
    site_path.write_text(site_path.read_text().replace(rule, f"{rule}\n  metrics: {metrics}"))
    site = read_deployed_site(site_path)
    announced = announcement(site, public_key(Path(site.key_file)))
    assert f"fewer than 10 subjects:\n      {listed}\n  - " in announced
    assert "train_loss" not in announced


def test_the_node_gets_no_path_of_the_site_and_never_runs_without_tls(site_path: Path, tmp_path: Path) -> None:
    node, runner = programs(read_deployed_site(site_path), site_path=site_path, secret_path=tmp_path / "secret")
    assert node.command[node.command.index("--node-config") + 1] == 'site="hospitalA"'
    assert node.command[node.command.index("--isolation") + 1] == "process"
    assert "--insecure" not in node.command
    assert runner.command[1:] == (
        "-m",
        "client.process.runner",
        "--site-file",
        str(site_path.resolve()),
        "--secret-file",
        *runner.command[-1:],
    )


def test_without_the_coordinators_key_nothing_starts(site_path: Path) -> None:
    site_path.write_text(site_path.read_text().replace("ca.crt", certifi.where()).replace(PUBLIC, "none"))
    with pytest.raises(ConfigError, match=r"coordinator.public_key 'none' is no Ed25519 key.*coordinator.pub"):
        join(site_path, Console())


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (value := what()):
        assert time.monotonic() < deadline, "the deadline passed"
        time.sleep(0.05)
    return value


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_flowers_programs_get_a_home_in_the_state_folder_and_print_at_once(tmp_path: Path) -> None:
    made = environment(tmp_path)
    assert (made["FLWR_HOME"], made["PYTHONUNBUFFERED"]) == (str(tmp_path / "flwr"), "1")


def test_without_the_coordinators_certificate_nothing_starts(site_path: Path) -> None:
    ca_path = Path(read_deployed_site(site_path).coordinator.ca_file)
    with pytest.raises(ConfigError, match=r"coordinator.ca_file .*ca.crt: No such file .*; copy the coord"):
        join(site_path, Console())
    ca_path.write_text("not a certificate\n")
    with pytest.raises(ConfigError, match=r"coordinator.ca_file .*ca.crt holds no certificate in PEM format; copy"):
        join(site_path, Console())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_node_and_runner_start_and_ctrl_c_ends_both_within_10_s(tmp_path: Path) -> None:
    make_key(tmp_path / "key", site="hospitalA")
    scans = write_ixi(tmp_path / "ixi", {"Guys": 3})
    one, twice = (scans / "IXI-PD" / f"IXI{number}-PD.nii.gz" for number in ("100-Guys-1100", "101-Guys-1101"))
    shutil.copyfile(one, twice)
    site_path, out_path = tmp_path / "a.yaml", tmp_path / "out"
    site_path.write_text(
        f"site: hospitalA\ndata: {{dir: {scans}, layout: ixi}}\ncache_dir: cache\nstate_dir: state\nkey_file: key\n"
        f"coordinator: {{address: '127.0.0.1:{free_port()}', ca_file: {certifi.where()}, public_key: {PUBLIC}}}\n"
        f"device: cpu\nruntime_port: {free_port()}\n"
    )
    with out_path.open("wb") as out:
        client = subprocess.Popen(
            [sys.executable, "-m", "client", "--site-file", str(site_path)],
            cwd=tmp_path,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    children: list[int] = []
    try:
        wait_for(lambda: "cannot be reached" in out_path.read_text() or client.poll() is not None)
        assert client.poll() is None, out_path.read_text()
        children = children_of(client.pid)
        assert len(children) == 2
        assert stat.S_IMODE((tmp_path / "state" / "runtime.secret").stat().st_mode) == 0o600
        with pytest.raises(RunError, match="already running"):
            join(site_path, Console())
        started = time.monotonic()
        client.send_signal(signal.SIGINT)
        assert client.wait(DEADLINE_S) == 0
        assert time.monotonic() - started < 10
        assert not any(Path(f"/proc/{child}").exists() for child in children)
        with only_client(tmp_path / "state"):
            pass
        assert "stopped" in out_path.read_text()
        assert "hold the same image" in out_path.read_text()
    finally:
        for pid in (client.pid, *children):
            if Path(f"/proc/{pid}").exists():
                os.killpg(pid, signal.SIGKILL)
        client.wait()
