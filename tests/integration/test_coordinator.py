"""The coordinator's commands against a real `flower-superlink` with TLS, node authentication and a database."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from server import flower_cli, strikes
from server.__main__ import main
from server.coordinator import CoordinatorDir
from tests.support.events import kinds_of
from tests.support.health_services import health_service
from tests.support.real_processes import free_port

DEADLINE_S = 120.0


def until(condition: Callable[[], Any], what: str, *, deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of the condition."""
    deadline = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.1)
    return value


def write_key(path: Path) -> Path:
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    path.write_bytes(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return path


@dataclass
class Up:
    """A running `python -m server up`, and what it has printed."""

    process: subprocess.Popen[str]
    printed: list[str]

    def stop(self, number: int) -> float:
        """Signal it; the seconds it took to end."""
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(DEADLINE_S)
        return time.monotonic() - started


def start(folder: Path, port: int, health_port: int, *more: str) -> Up:
    command = [sys.executable, "-m", "server", "up", "--dir", str(folder)]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--health-port", str(health_port), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    up = Up(process, [])

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            up.printed.extend(iter(process.stdout.readline, ""))

    threading.Thread(target=read, daemon=True).start()
    until(lambda: any("stop with Ctrl-C" in line for line in up.printed) or process.poll() is not None, "up")
    assert process.poll() is None, "".join(up.printed)
    return up


def processes_of(folder: Path) -> list[int]:
    """Ids of all processes whose FLWR_HOME or command line is in the coordinator's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if str(folder).encode() in text:
            found.append(int(entry.name))
    return found


@dataclass
class Running:
    """A coordinator that this module's tests share."""

    folder: Path
    up: Up

    def call(self, *arguments: str) -> int:
        command, *rest = arguments
        return main([command, "--dir", str(self.folder), *rest])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("place") / "coordinator"
    assert main(["certs", "--dir", str(folder), "--name", "coord.example.org"]) == 0
    up = start(folder, free_port(), free_port())
    try:
        yield Running(folder, up)
    finally:
        if up.process.poll() is None:
            up.stop(signal.SIGTERM)
        for process in processes_of(folder):
            os.kill(process, signal.SIGKILL)


def status_of(running: Running, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert running.call("status", "--json") == 0
    current: dict[str, Any] = json.loads(capsys.readouterr().out)
    return current


def test_up_says_where_it_listens_and_what_next(running: Running) -> None:
    text = "".join(running.up.printed)
    assert "coordinator ready on https://127.0.0.1:" in text
    assert "nothing beyond this machine" in text
    assert "next: python -m server register" in text
    assert stat.S_IMODE(running.folder.stat().st_mode) == 0o700


def test_it_starts_once(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    config = (running.folder / "flwr" / "config.toml").read_text()
    port = config.split("127.0.0.1:")[1].split('"')[0]
    for ports in ([port, "8001"], [str(free_port()), str(free_port())]):
        assert running.call("up", "--port", ports[0], "--health-port", ports[1]) == 2
        told = capsys.readouterr().err
        assert f"a coordinator runs in {running.folder} already; stop it first" in told
        assert "--port" not in told
        assert (running.folder / "flwr" / "config.toml").read_text() == config


def test_status_tells_alive_from_ready(running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    current = status_of(running, capsys)
    assert (current["alive"], current["reachable"]) == (True, True)
    with health_service() as port:  # all that is left of a SuperLink
        (tmp_path / "health-port.txt").write_text(str(port))
        assert main(["status", "--dir", str(tmp_path)]) == 0
    assert "coordinator: alive, but it does not answer" in capsys.readouterr().out


def test_registering_a_site(running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = write_key(tmp_path / "a.pub")
    assert running.call("register", "--name", "hospitalA", str(key), "--subjects", "40") == 0
    assert "hospitalA registered, key SHA256:" in capsys.readouterr().out
    registry = json.loads((running.folder / "sites.json").read_text())
    assert registry["hospitalA"]["subjects"] == 40
    assert registry["hospitalA"]["node_id"] in flower_cli.nodes(CoordinatorDir(running.folder))

    assert running.call("register", "--name", "hospitalA", str(key)) == 0
    assert "already registered" in capsys.readouterr().out
    assert json.loads((running.folder / "sites.json").read_text()) == registry
    assert running.call("register", "--name", "hospitalA", str(key), "--modalities", "T1,T2") == 0
    assert "; it offers T1, T2" in capsys.readouterr().out
    assert status_of(running, capsys)["sites"]["hospitalA"] == {
        "status": "registered",
        "last_seen": None,
        "subjects": 40,
        "strikes": 0,
    }

    assert running.call("register", "--name", "hospitalA", str(write_key(tmp_path / "b.pub"))) == 2
    assert "registered with another key" in capsys.readouterr().err
    assert running.call("register", "--name", "hospitalB", str(key)) == 2
    assert "this key is registered as hospitalA" in capsys.readouterr().err


def test_a_registration_cut_short_is_mended(running: Running, tmp_path: Path) -> None:
    """Killed between Flower's registration and the note of it, the same command finishes the work."""
    key = write_key(tmp_path / "c.pub")
    assert running.call("register", "--name", "hospitalC", str(key)) == 0
    registry = json.loads((running.folder / "sites.json").read_text())
    cut_short = {name: entry for name, entry in registry.items() if name != "hospitalC"}
    (running.folder / "sites.json").write_text(json.dumps(cut_short))
    assert running.call("register", "--name", "hospitalC", str(key)) == 0
    assert json.loads((running.folder / "sites.json").read_text()) == registry


def test_a_hospital_leaves_and_returns_with_its_key(running: Running, tmp_path: Path) -> None:
    sites_path, coordinator = running.folder / "sites.json", CoordinatorDir(running.folder)
    key = write_key(tmp_path / "g.pub")
    assert running.call("register", "--name", "hospitalG", str(key), "--subjects", "9") == 0
    before = json.loads(sites_path.read_text())["hospitalG"]["node_id"]
    assert running.call("unregister", "hospitalG") == 0
    assert "hospitalG" not in json.loads(sites_path.read_text())
    assert before not in flower_cli.nodes(coordinator)

    assert running.call("register", "--name", "hospitalG", str(key), "--subjects", "9") == 0
    after = json.loads(sites_path.read_text())["hospitalG"]["node_id"]
    nodes = flower_cli.nodes(coordinator)
    assert after in nodes
    assert before not in nodes


def test_submit_refuses_what_cannot_work(running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running.call("register", "--name", "hospitalD", str(write_key(tmp_path / "d.pub")), "--subjects", "9")
    running.call("register", "--name", "hospitalF", str(write_key(tmp_path / "f.pub")))
    for settings, message in (
        (["data.dir=/scans"], "data: not a setting of a deployed run"),
        (["federation.sites=[nobody]"], "not registered: nobody"),
        (["federation.sites=[hospitalD]", "federation.quorum=2"], "more than the 1 training sites"),
        (["federation.sites=[hospitalF]"], "hospitalF: registered without a number of subjects"),
        (["federation.sites=[hospitalD]", "federation.aggregation=krum"], "krum needs 5 replies"),
        (["federation.sites=[hospitalD]", "federation.unseen_sites=[hospitalD]"], "stands twice"),
        (["rounds=0"], "rounds"),
        (["initial_weights=/nowhere"], "initial_weights=/nowhere cannot be read"),
    ):
        assert running.call("submit", "--name", "refused", *settings) == 2
        assert message in capsys.readouterr().err
    assert not (running.folder / "runs" / "refused").exists()


@pytest.mark.slow
def test_a_run_that_waits_pauses_resumes_and_stops(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No hospital is there: the run says for whom it waits, pauses at the limit, resumes, and can be stopped."""
    running.call("register", "--name", "hospitalE", str(write_key(tmp_path / "e.pub")), "--subjects", "9")
    small = ("model.widths=[8,16]", "grid.crop=[32,32]", "federation.sites=[hospitalE]")
    assert running.call("submit", "--name", "first", *small, "federation.wait_s=2", "federation.retries=0") == 0
    run_dir = running.folder / "runs" / "first"
    until(lambda: status_of(running, capsys)["run"]["state"] == "paused", "the run pauses")
    run = status_of(running, capsys)["run"]
    assert run["failed"] == {"hospitalE": "not connected"}
    assert "0 of 1 sites are connected, and 1 are needed" in run["reason"]
    assert kinds_of(run_dir) == ["run_started", "waiting", "site_missing", "paused"]
    assert "not connected" in (run_dir / "report.html").read_text()
    assert running.call("status") == 0
    assert "go on with: python -m server resume first" in capsys.readouterr().out

    text = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(text.replace("wait_s: 2.0", "wait_s: 600.0"))
    assert running.call("resume", "first") == 0
    until(lambda: status_of(running, capsys)["run"]["waiting_for"] == ["hospitalE"], "the run waits")
    assert status_of(running, capsys)["run"]["state"] == "running"
    assert running.call("resume", "first") == 2
    assert "is running" in capsys.readouterr().err
    assert running.call("stop") == 0
    assert status_of(running, capsys)["run"]["state"] == "interrupted"
    assert running.call("stop") == 2
    assert "is not running" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_goes_on_by_itself_after_the_coordinator_went_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, ports = tmp_path / "coordinator", (free_port(), free_port())
    assert main(["certs", "--dir", str(folder), "--name", "coord.example.org"]) == 0
    running = Running(folder, start(folder, *ports))
    try:
        running.call("register", "--name", "hospitalA", str(write_key(tmp_path / "a.pub")), "--subjects", "9")
        assert running.call("submit", "--name", "first", "model.widths=[8,16]", "grid.crop=[32,32]") == 0
        until(lambda: status_of(running, capsys)["run"]["waiting_for"] == ["hospitalA"], "the run waits")
        running.up.stop(signal.SIGTERM)
        assert status_of(running, capsys)["run"]["state"] == "interrupted"
        running.up = start(folder, *ports, "--resume")
        until(lambda: status_of(running, capsys)["run"]["waiting_for"] == ["hospitalA"], "it waits again")
        assert running.call("stop") == 0
        running.up.stop(signal.SIGTERM)
        running.up = start(folder, *ports, "--resume", "--notify", "true")
        assert not any("goes on" in line for line in running.up.printed)
    finally:
        running.up.stop(signal.SIGKILL)
        for process in processes_of(folder):
            os.kill(process, signal.SIGKILL)


def test_a_site_is_released_from_quarantine(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    path = CoordinatorDir(running.folder).strikes_path
    assert running.call("release", "hospitalA") == 2
    refused = capsys.readouterr()
    assert "hospitalA has no strikes" in refused.err
    assert refused.out == ""
    for round in (1, 2, 3):
        strikes.strike(path, "hospitalA", run="first", round=round, reason="the reply's w is not finite")
    assert running.call("release", "hospitalA") == 0
    assert "run first, round 3: the reply's w is not finite" in capsys.readouterr().out
    assert strikes.quarantined(path) == []


def test_nothing_of_it_listens_beyond_loopback(running: Running) -> None:
    inodes = {
        os.readlink(link)
        for process in processes_of(running.folder)
        for link in Path(f"/proc/{process}/fd").iterdir()
        if link.is_symlink()
    }
    listening = [
        fields[1]
        for table in ("tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes
    ]
    assert listening
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1 and ::ffff:127.0.0.1, bytes reversed
    assert {address.split(":")[0] for address in listening} <= loopback


@pytest.mark.slow
def test_a_killed_superlink_leaves_nothing_behind_and_its_run_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "coordinator"
    assert main(["certs", "--dir", str(folder), "--name", "coord.example.org"]) == 0
    ports = free_port(), free_port()
    running = Running(folder, start(folder, *ports))
    try:
        running.call("register", "--name", "hospitalA", str(write_key(tmp_path / "a.pub")), "--subjects", "9")
        assert running.call("submit", "--name", "r", "model.widths=[8,16]", "grid.crop=[32,32]") == 0
        until(lambda: status_of(running, capsys)["run"]["waiting_for"] == ["hospitalA"], "the run waits")

        (superlink_id,) = [
            process
            for process in processes_of(folder)
            if b"server.guarded_superlink\0" in Path(f"/proc/{process}/cmdline").read_bytes()
        ]
        os.kill(superlink_id, signal.SIGKILL)
        assert running.up.process.wait(20) == 2
        assert "flower-superlink ended by itself" in "".join(running.up.printed)
        until(lambda: not processes_of(folder), "no process is left", deadline_s=5)
        assert status_of(running, capsys)["run"]["state"] == "interrupted"

        running.up = start(folder, *ports)
        assert running.call("resume", "r") == 0  # at once: Flower itself believes for a minute that the run still runs
        until(lambda: status_of(running, capsys)["run"]["waiting_for"] == ["hospitalA"], "the run waits again")
        assert running.up.stop(signal.SIGTERM) < 10
    finally:
        for process in processes_of(folder):
            os.kill(process, signal.SIGKILL)


@pytest.mark.slow
def test_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGTERM and Ctrl-C end everything in time; registrations survive; a command without a coordinator says so."""
    folder = tmp_path / "coordinator"
    assert main(["certs", "--dir", str(folder), "--name", "coord.example.org"]) == 0
    ports = free_port(), free_port()
    key = write_key(tmp_path / "a.pub")
    up = start(folder, *ports)
    try:
        assert main(["register", "--dir", str(folder), "--name", "hospitalA", str(key), "--subjects", "9"]) == 0
        assert up.stop(signal.SIGTERM) < 10
        assert up.process.returncode == 0
        until(lambda: not processes_of(folder), "no process is left", deadline_s=5)

        capsys.readouterr()
        assert main(["submit", "--dir", str(folder), "--name", "r"]) == 2
        assert "start it with: python -m server up" in capsys.readouterr().err
        assert not (folder / "runs" / "r").exists()
        assert main(["status", "--dir", str(folder)]) == 0
        assert "coordinator: not running" in capsys.readouterr().out

        up = start(folder, *ports)
        assert "sites    hospitalA" in "".join(up.printed)
        assert main(["register", "--dir", str(folder), "--name", "hospitalA", str(key)]) == 0
        assert "already registered" in capsys.readouterr().out
        assert up.stop(signal.SIGINT) < 10
        until(lambda: not processes_of(folder), "no process is left", deadline_s=5)
    finally:
        for process in processes_of(folder):
            os.kill(process, signal.SIGKILL)


def words(process: int) -> list[str]:
    """Its command line; the second word is the script of a Python program, or the third its module."""
    return Path(f"/proc/{process}/cmdline").read_text().split("\0")


@pytest.mark.parametrize(
    ("started", "program"),
    [("flower-superexec", "flower-superexec"), ("server.guarded_superlink", "flower-superlink")],
)
def test_it_ends_when_one_of_its_programs_does(tmp_path: Path, started: str, program: str) -> None:
    """A 500 of the SuperLink ended the one that starts runs, nothing noticed, and no run started any more."""
    folder = tmp_path / "coordinator"
    assert main(["certs", "--dir", str(folder), "--name", "coord.example.org"]) == 0
    up = start(folder, free_port(), free_port())
    try:
        (victim,) = [
            process for process in processes_of(folder) if any(word.endswith(started) for word in words(process)[1:3])
        ]
        os.kill(victim, signal.SIGKILL)
        assert up.process.wait(DEADLINE_S) == 2  # the service starts it again
        until(lambda: any(f"error: {program} ended by itself" in line for line in up.printed), "the reason")
        assert processes_of(folder) == []
        assert main(["status", "--dir", str(folder)]) == 0
    finally:
        up.process.kill()
        for process in processes_of(folder):
            os.kill(process, signal.SIGKILL)
