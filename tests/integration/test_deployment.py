"""The runbooks, carried out: a coordinator and three hospitals on loopback, with TLS, node keys, nginx and a database.

Every command comes from docs/coordinator.md and docs/hospital.md; host, ports, names, folders and the model's size are
changed, nothing else. A secret stands wherever a hospital could hold one: folder names, file names, subject ids, NIfTI
headers, participants.tsv, the text of an exception; nginx records every byte that arrives.
"""

import contextlib
import dataclasses
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import pytest

from agi_core.errors import DataError
from agi_core.host import atomic
from agi_core.layouts import LayoutName
from agi_core.run import run_folder
from agi_core.run.event_log import events_of, read_events
from agi_core.run.events import LastLayerSolved, ModelTested, RoundFinished, SiteFailed
from client.app import app as client_app
from client.site.file import Site, SiteData, to_yaml
from client.site.policy import Policy
from server import status
from server.app import app as server_app
from simulations.local_grid import run_in_process
from tests.support import runbook
from tests.support.events import kinds_of
from tests.support.real_processes import ROOT, free_port, needs_nginx, nginx, processes_of, until, with_changes
from tests.support.small_data import write_head, write_ixi
from tests.support.small_federation import assert_same_weights

pytestmark = [pytest.mark.slow, needs_nginx]
SITES: Mapping[str, tuple[int, LayoutName]] = {
    "hospitalA": (12, "ixi"),
    "hospitalB": (11, "ixi"),
    "hospitalC": (10, "bids"),
}
SHARES = "share_last_layer: true"
SMALL = "model.widths=[8,16] grid.crop=[32,32] training.local_steps=2 training.batch_size=5"
STOP_S = 10.0


@dataclass
class Machine:
    """One computer of the story: its folder, what its people write differently, and the programs that they started."""

    folder: Path
    changes: dict[str, str]
    runbook: str
    done: set[str] = field(default_factory=set)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        (self.folder / "deploy").symlink_to(ROOT / "deploy")

    def command(self, name: str) -> str:
        """A command of the runbook, as it is typed here."""
        self.done.add(name)
        return with_changes(runbook.commands(self.runbook)[name], self.changes)

    def run(self, name: str) -> str:
        """What the command prints."""
        finished = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.command(name)],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        assert finished.returncode == 0, f"{name}:\n{finished.stdout}"
        return finished.stdout

    def start(self, name: str) -> None:
        """Leave the command running; `printed` has what it says."""
        with self.log_path(name).open("wb") as log:
            self.running[name] = subprocess.Popen(
                ["bash", "-euc", f"exec {self.command(name).strip()}"],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def printed(self, name: str) -> str:
        return self.log_path(name).read_text()

    def end(self, name: str, *, since: float) -> float:
        """Wait until a running command has ended well; the seconds since that moment."""
        assert self.running[name].wait(60) == 0, self.printed(name)
        return time.monotonic() - since

    def log_path(self, name: str) -> Path:
        return self.folder / f"terminal-{name}.txt"

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "COLUMNS": "200",
            "PLACE": str(self.folder),  # by which `processes_of` knows all that was started here
        }


@dataclass(frozen=True)
class Story:
    """What is left when all has ended."""

    place: Path
    secret: str
    coordinator: Machine
    hospitals: Mapping[str, Machine]
    data_dirs: Mapping[str, Path]
    received: bytes
    printed: Mapping[str, str]
    stop_s: Mapping[str, float]
    left: Mapping[int, str]

    def run_dir(self, name: str) -> Path:
        return self.coordinator.folder / "coordinator" / "runs" / name


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    place, secret = tmp_path_factory.mktemp("story"), f"zq{secrets.token_hex(8)}"
    try:
        yield act(place, secret)
    finally:
        for process in processes_of(place):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def act(place: Path, secret: str) -> Story:
    """The runbooks from the first command to the last, by a coordinator and three hospitals."""
    data_dirs = {name: write_scans(place / f"scans-{secret}-{name}", name, secret) for name in SITES}
    public_port, inner_port = free_port(), free_port()
    coordinator = Machine(
        place / "coordinator-host",
        {
            "coordinator.example.org": "localhost",
            "--port 8000 --health-port 8001": f"--port {inner_port} --health-port {free_port()}",
            "--config first.yaml": f"--config first.yaml {SMALL}",
        },
        "coordinator.md",
    )
    hospitals = {
        name: Machine(
            place / name,
            {
                "hospitalA": name,
                "coordinator.example.org:443": f"localhost:{public_port}",
                "--data /data/ixi --layout ixi": f"--data {data_dirs[name]} --layout {layout}",
            },
            "hospital.md",
        )
        for name, (_, layout) in SITES.items()
    }
    printed: dict[str, str] = {}

    # THE COORDINATOR: certificates, gateway, start
    printed["certs"] = coordinator.run("certs")
    coordinator.run("gateway")
    conf_path = coordinator.folder / "agi-fed.conf"
    marked = {
        "127.0.0.1:8000": f"127.0.0.1:{inner_port}",
        "listen 443": f"listen 127.0.0.1:{public_port}",
        "/var/lib/agi-fed/coordinator": f"{coordinator.folder}/coordinator",
    }
    conf_path.write_text(with_changes(conf_path.read_text(), marked))
    coordinator.start("up")

    # THE HOSPITALS: site file and key; the coordinator gives two files, and gets the public key
    for name, hospital in hospitals.items():
        for given in ("ca.crt", "coordinator.pub"):
            shutil.copy(coordinator.folder / "coordinator" / "certs" / given, hospital.folder)
        printed[f"init {name}"] = hospital.run("init")
        site_path = hospital.folder / "sites" / f"{name}.yaml"
        changes = {"runtime_port: 9094": f"runtime_port: {free_port()}", "share_last_layer: false": SHARES}
        site_path.write_text(with_changes(site_path.read_text(), changes))
        public = hospital.folder / "state" / name / "key" / "node.pub"
        shutil.copy(public, coordinator.folder / f"{name}.pub")

    with nginx(place / "nginx", conf_path, port=public_port) as received_path:
        until(lambda: "stop with Ctrl-C" in coordinator.printed("up"), "the coordinator is up")
        for name in sorted(SITES, reverse=True):
            coordinator.changes["hospitalA"] = name
            printed[f"register {name}"] = coordinator.run("register")
            if name == "hospitalA":
                printed["check"] = hospitals[name].run("check")
                printed["dry-run"] = hospitals[name].run("dry-run")
            hospitals[name].start("join")

        # THREE ROUNDS and a report
        coordinator.run("submit")
        run_dir = coordinator.folder / "coordinator" / "runs" / "first"
        until_ended(run_dir, hospitals)
        printed["status"] = coordinator.run("status")

        # ANOTHER RUN, in which hospitalC cannot read its scans: the error's text names them
        whole = {path: path.read_bytes() for path in data_dirs["hospitalC"].rglob("*_PD.nii.gz")}
        for path in whole:
            path.write_bytes(secret.encode())
        coordinator.changes |= {"scenario: T1,T2:PD": "scenario: PD,T2:T1", "rounds: 3": "rounds: 1", "first": "second"}
        coordinator.run("submit")
        until_ended(run_dir.with_name("second"), hospitals)
        for path, content in whole.items():
            path.write_bytes(content)

        # THE END
        stopped = time.monotonic()
        for hospital in hospitals.values():
            hospital.running["join"].send_signal(signal.SIGINT)  # Ctrl-C
        stop_s = {name: hospital.end("join", since=stopped) for name, hospital in hospitals.items()}
        stopped = time.monotonic()
        coordinator.running["up"].send_signal(signal.SIGTERM)
        stop_s["coordinator"] = coordinator.end("up", since=stopped)
        received = received_path.read_bytes()
    printed["audit"] = hospitals["hospitalA"].run("audit")
    hospitals["hospitalA"].run("services")
    return Story(place, secret, coordinator, hospitals, data_dirs, received, printed, stop_s, processes_of(place))


def write_scans(folder: Path, name: str, secret: str) -> Path:
    """A hospital's scans, small, with the secret in their headers and wherever the layout has room for it."""
    count, layout = SITES[name]
    if layout == "ixi":
        write_ixi(folder, {"Guys": count})
    else:
        subjects = [f"sub-{secret}{number:02}" for number in range(count)]
        for number, subject in enumerate(subjects):
            for m, modality in enumerate(("T1", "T2", "PD")):
                path = folder / subject / "anat" / f"{subject}_{modality}.nii.gz"
                write_head(path, seed=500 + number, contrast=1.0 + 0.4 * m)
        rows = "".join(f"{subject}\tname-{secret}\n" for subject in subjects)
        (folder / "participants.tsv").write_text(f"participant_id\tname\n{rows}")
    for path in folder.rglob("*.nii.gz"):
        image = nibabel.load(path)
        image.header["descrip"] = secret
        nibabel.save(nibabel.Nifti1Image(image.get_fdata().astype("int16"), image.affine, image.header), path)
    return folder


def until_ended(run_dir: Path, hospitals: Mapping[str, Machine]) -> None:
    """Wait until the run is finished, or fail with what everybody saw."""

    def ended() -> bool:
        return (run_dir / "report.html").is_file() and status.run_status(run_dir).state != "running"

    try:
        until(ended, f"run {run_dir.name} ends")
        assert status.run_status(run_dir).state == "finished", read_events(run_dir)[-3:]
    except AssertionError as error:
        told = "\n".join(hospital.printed("join") for hospital in hospitals.values())
        raise AssertionError(f"{error}\n{told}") from None


def test_every_command_of_the_runbooks_was_run(story: Story) -> None:
    assert story.coordinator.done == set(runbook.commands("coordinator.md"))
    assert story.hospitals["hospitalA"].done == set(runbook.commands("hospital.md"))


def test_what_the_commands_said(story: Story) -> None:
    for name in SITES:
        told = story.printed[f"init {name}"]
        fingerprint, coordinators = re.findall(r"SHA256:\S+", told)
        (authority,) = re.findall(r"ca\.crt SHA256 (?:[0-9A-F]{2}:){31}[0-9A-F]{2}\n", told)
        assert f"coordinator.pub {coordinators}\n{authority}" in story.printed["certs"]
        assert f"{name} registered, key {fingerprint}" in story.printed[f"register {name}"]
    assert "ready to join" in story.printed["check"]
    assert "At this pace a round of" in story.printed["dry-run"]
    assert "round 3    train" in story.printed["audit"]
    assert "The chain is whole" in story.printed["audit"]
    for name, hospital in story.hospitals.items():
        assert f"{name} -> localhost:" in hospital.printed("join")
        assert "connected" in hospital.printed("join")
    assert "run first: finished, round 3/3, validation" in story.printed["status"]
    assert all(re.search(rf"{name} +online", story.printed["status"]) for name in SITES)


def test_three_rounds_of_three_hospitals_and_a_report(story: Story) -> None:
    run_dir = story.run_dir("first")
    assert [sorted(event.train_loss) for event in events_of(run_dir, RoundFinished)] == [sorted(SITES)] * 3
    assert not {"site_failed", "site_missing", "update_refused"} & {*kinds_of(run_dir)}
    (tested,) = events_of(run_dir, ModelTested)
    assert sorted(tested.scores.sites) == sorted(SITES)
    (solved,) = events_of(run_dir, LastLayerSolved)
    assert solved.sites == sorted(SITES)
    page = (run_dir / "report.html").read_text()
    assert all(name in page for name in SITES)


def test_it_ends_with_the_weights_of_the_in_process_run(story: Story, tmp_path: Path) -> None:
    config = dataclasses.replace(run_folder.open_existing(story.run_dir("first")), engine="in-process")
    run_folder.create(tmp_path / "run", config)
    site_paths = {}
    for name, (_, layout) in SITES.items():
        site_paths[name] = tmp_path / f"{name}.yaml"
        data = SiteData(dir=str(story.data_dirs[name]), layout=layout)
        site = Site(
            site=name,
            policy=Policy(share_last_layer=True),
            data=data,
            cache_dir=str(tmp_path / "cache" / name),
            device="cpu",
            threads=1,
        )
        atomic.write_text(site_paths[name], to_yaml(site))
    node_configs = [{"site": name, "site-config": str(path)} for name, path in site_paths.items()]
    run_in_process(server_app, client_app, node_configs=node_configs, run_config={"run-dir": str(tmp_path / "run")})
    assert_same_weights(story.run_dir("first"), tmp_path / "run", atol=1e-6)


def test_a_hospital_that_fails_is_named_and_says_nothing_of_its_own(story: Story) -> None:
    failures = events_of(story.run_dir("second"), SiteFailed)
    assert {(event.site, event.reason) for event in failures} == {("hospitalC", DataError.public)}
    assert "hospitalC" in (story.run_dir("second") / "report.html").read_text()


def test_the_secret_stays_at_the_hospitals(story: Story) -> None:
    secret = story.secret.encode()
    state_dir = story.hospitals["hospitalC"].folder / "state" / "hospitalC"
    assert secret in (state_dir / "logs" / "details.log").read_bytes()  # it was there to be told
    for name in ("logs/runner.log", "logs/node.log", "audit.jsonl"):
        assert secret not in (state_dir / name).read_bytes(), name
    assert all(part in story.received for part in (b"train_loss", b"SuperNode", DataError.public.encode()))
    assert secret not in story.received
    kept = [path for path in story.coordinator.folder.rglob("*") if path.is_file()]
    names = {path.name for path in kept}
    assert {"state.db", "superlink.log", "events.jsonl", "report.html", "state-00003.safetensors"} <= names
    assert [path for path in kept if secret in path.read_bytes() or story.secret in path.name] == []


def test_everything_ends_in_time_and_nothing_is_left(story: Story) -> None:
    assert {name: seconds for name, seconds in story.stop_s.items() if seconds > STOP_S} == {}
    assert story.left == {}
