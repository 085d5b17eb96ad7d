"""A federation of real processes: `python -m server up` with TLS, node keys and a database, `python -m client` per
hospital, and the runs that are submitted to them."""

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from agi_core.run.event_log import LoggedEvent, read_events
from agi_core.run.events import Event, RoundFinished, RoundStarted, SiteFailed, SiteMissing
from client.site.file import DeployedSite, read_deployed_site
from client.site.keys import public_path
from client.site.new_site import write_site
from server import run_state, status
from server.__main__ import main
from tests.support.real_processes import Program, accepts, free_port, slowness, until

SMALL = ("model.widths=[8,16]", "grid.crop=[32,32]", "training.local_steps=2", "training.batch_size=2", "reference=T1")
E = TypeVar("E", bound=Event)
STOP_S = 10.0
NODE, RUNNER, WORKER = "client.process.node", "client.process.runner", "spawn_main"  # in their command lines


class Hospital(Program):
    """`python -m client` of one site."""

    def __init__(self, folder: Path, site_path: Path, *, under: Sequence[str | Path] = (), **variables: str) -> None:
        super().__init__(folder, "client", "--site-file", site_path, under=under, **variables)
        self.site_path, self.site = site_path, read_deployed_site(site_path)

    def status(self) -> dict[str, Any]:
        """What its runner is doing."""
        try:
            told: dict[str, Any] = json.loads((Path(self.site.state_dir) / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return told

    def process_of(self, program: str) -> int:
        (found,) = [process for process, command in self.processes().items() if program in command]
        return found

    def hold(self, *, round: int) -> int:
        """Stop its worker in the middle of that round's training; the process's number."""
        until(lambda: self._is("training", round), f"{self.site.site} trains in round {round}")
        worker = self.process_of(WORKER)
        os.kill(worker, signal.SIGSTOP)
        assert self._is("training", round)
        return worker

    def kinds(self) -> Counter[str]:
        """How many processes it has of which kind."""
        return Counter(re.sub(r"\d+", "#", command) for command in self.processes().values())

    def is_connected(self) -> bool:
        """By its own word."""
        lines = [line for line in self.printed().splitlines() if f"{self.site.site} -> " in line]
        return bool(lines) and ": connected" in lines[-1]

    def _is(self, state: str, round: int) -> bool:
        told = self.status()
        return (told.get("state"), told.get("round")) == (state, round)


@dataclass
class Run:
    """A submitted run, by its folder."""

    dir: Path
    began: float = field(default_factory=time.monotonic)

    def log(self) -> list[LoggedEvent]:
        """Everything that was noted so far."""
        return read_events(self.dir) if (self.dir / "events.jsonl").is_file() else []

    def events(self, kind: type[E]) -> list[E]:
        """Those of one kind."""
        return [event for _, event in self.log() if isinstance(event, kind)]

    def state(self) -> str:
        return status.run_status(self.dir).state

    def until_state(self, state: str, *, deadline_s: float = 600.0) -> None:
        """Wait until its process has ended, which must leave it in this state."""
        until(lambda: self.log(), "the run has begun", deadline_s=deadline_s)
        until(lambda: not run_state.is_held(self.dir), f"run {self.dir.name} ends", deadline_s=deadline_s)
        assert self.state() == state, "\n".join(map(str, self.log()))

    def took_part(self) -> list[list[str]]:
        """The sites that have trained, per round."""
        return [sorted(event.sites) for event in self.events(RoundFinished)]

    def troubles(self) -> set[tuple[str, int, str]]:
        """{(site, round, reason)} of those that failed, or did not answer."""
        found = [*self.events(SiteFailed), *self.events(SiteMissing)]
        return {(event.site, event.round, event.reason) for event in found}

    def seconds_to(self, round: int) -> float:
        """From the beginning of the first round to the end of this one."""
        began = next(t_s for t_s, event in self.log() if isinstance(event, RoundStarted))
        (ended,) = [t_s for t_s, event in self.log() if isinstance(event, RoundFinished) and event.round == round]
        return ended - began

    def report(self) -> str:
        return (self.dir / "report.html").read_text()


class Federation:
    """A coordinator, and hospitals by name; `networks` cut some of them off while they are cleared."""

    def __init__(
        self, folder: Path, *, name: str = "localhost", under: Sequence[str | Path] = (), **variables: str
    ) -> None:
        self.folder, self.dir = folder, folder / "coordinator"
        self.port, self.hospitals, self.networks = free_port(), dict[str, Hospital](), dict[str, threading.Event]()
        assert self.call("certs", "--name", name) == 0
        ports = ("--port", str(self.port), "--health-port", str(free_port()))
        self.up = Program(folder / "up", "server", "up", "--dir", self.dir, *ports, under=under, **variables)

    @property
    def ca_path(self) -> Path:
        return self.dir / "certs" / "ca.crt"

    @property
    def public_key(self) -> str:
        return (self.dir / "certs" / "coordinator.pub").read_text().strip()

    def start(self) -> None:
        """`python -m server up`, until it is."""
        told = len(self.up.printed())
        self.up.start()
        until(lambda: "stop with Ctrl-C" in self.up.printed()[told:] or self.up.process.poll() is not None, "up")
        assert self.up.process.poll() is None, self.up.printed()
        assert accepts(self.port)

    def call(self, command: str, *arguments: str) -> int:
        """The exit code of `python -m server`."""
        return main([command, "--dir", str(self.dir), *arguments])

    def site(
        self,
        name: str,
        data_dir: Path,
        *,
        host: str = "localhost",
        port: int | None = None,
        registered: Sequence[str] = (),
    ) -> DeployedSite:
        """A new site file with its key, registered, with these arguments too."""
        site_path = self.folder / name / "sites" / f"{name}.yaml"
        site_path.parent.mkdir(parents=True)
        address = f"{host}:{port or self.port}"
        key_path = write_site(
            site_path,
            site=name,
            data_dir=data_dir,
            layout="ixi",
            address=address,
            ca_path=self.ca_path,
            public_key=self.public_key,
        )
        site_path.write_text(site_path.read_text().replace("runtime_port: 9094", f"runtime_port: {free_port()}"))
        assert self.call("register", "--name", name, str(public_path(key_path)), "--subjects", "50", *registered) == 0
        return read_deployed_site(site_path)

    def join(
        self,
        name: str,
        data_dir: Path,
        *,
        port: int | None = None,
        registered: Sequence[str] = (),
        under: Sequence[str | Path] = (),
        **variables: str,
    ) -> Hospital:
        """A new hospital that takes part."""
        self.site(name, data_dir, port=port, registered=registered)
        folder = self.folder / name
        hospital = Hospital(folder, folder / "sites" / f"{name}.yaml", under=under, **variables)
        hospital.start()
        self.hospitals[name] = hospital
        return hospital

    def submit(self, name: str, *settings: str) -> Run:
        assert self.call("submit", "--name", name, *SMALL, *settings) == 0
        return Run(self.dir / "runs" / name)

    def resume(self, run: Run) -> None:
        """Until a process works on it again."""
        assert self.call("resume", run.dir.name) == 0
        until(lambda: run_state.is_held(run.dir), f"run {run.dir.name} goes on")

    def until_ready(self, names: Sequence[str] = ()) -> None:
        """All are connected by their own word, and wait."""
        for name in names or self.hospitals:
            hospital = self.hospitals[name]
            until(lambda h=hospital: h.is_connected() and h.status().get("state") == "waiting", f"{name} is ready")


@contextlib.contextmanager
def running(federation: Federation) -> Iterator[Federation]:
    """Within the block it lives; then all of it ends in time, and nothing is left."""
    try:
        federation.start()
        yield federation
        programs = [federation.up, *federation.hospitals.values()]
        slow = {
            p.folder.name: s
            for p in reversed(programs)
            if p.process.poll() is None and (s := p.stop()) > STOP_S * slowness()
        }
        assert slow == {}
        assert {p.folder.name: left for p in programs if (left := p.processes())} == {}
    finally:
        for program in (federation.up, *federation.hospitals.values()):
            program.kill()
