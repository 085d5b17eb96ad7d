"""A hospital that trains privately, over real processes: two runs spend one budget, a third is refused, and a client
that is killed in the middle of a round counts that round twice."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agi_core.errors import BudgetError
from agi_core.run.event_log import events_of, read_events
from agi_core.run.events import ModelValidated, RoundFinished, SiteSatOut
from client.border import audit
from server import status
from tests.support.real_processes import free_port, processes_of, until
from tests.support.small_data import write_ixi

pytestmark = pytest.mark.slow
PRIVACY = """
privacy:
  epsilon: 6
  delta: 1.0e-5
  subjects: 9
  min_noise_multiplier: 1.0
  ledger: ../state/hospitalA/privacy/ledger.jsonl
  ledger_head: ../head.json
"""
TASK = (
    *("model.widths=[8,16]", "grid.crop=[32,32]", "rounds=2", "training.local_steps=8", "federation.retries=3"),
    *("privacy.epsilon=6", "privacy.noise_multiplier=4", "privacy.slices_per_subject=2", "federation.deadline_s=120"),
)
DEADLINE_S = 600.0


@dataclass
class Place:
    """One folder, in which a coordinator and a hospital live."""

    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def call(self, *command: str) -> str:
        """What the command prints."""
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=self.folder, env=self.environment(), timeout=300, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=self.folder, env=self.environment(), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.running.append(process)
        return process

    def printed(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text()

    def run_dir(self, run: str) -> Path:
        return self.folder / "coordinator" / "runs" / run

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
            "PLACE": str(self.folder),  # by which `processes_of` knows all that was started here
        }

    def ledger(self) -> list[dict[str, Any]]:
        path = self.folder / "state" / "hospitalA" / "privacy" / "ledger.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    try:
        yield place
    finally:
        for process in processes_of(tmp_path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for started in place.running:
            started.wait(10)


def ended(place: Place, run: str) -> str:
    """The state in which the run ends."""
    run_dir = place.folder / "coordinator" / "runs" / run

    def state() -> str | None:
        now = status.run_status(run_dir).state
        return now if now != "running" and (run_dir / "report.html").is_file() else None

    ending: str = until(state, f"run {run} ends", deadline_s=DEADLINE_S)
    return ending


def test_two_runs_spend_one_budget_through_a_crash(place: Place) -> None:
    scans = write_ixi(place.folder / "scans", {"Guys": 12})
    port = free_port()
    place.call("server", "certs", "--name", "localhost")
    place.start("up", "server", "up", "--port", str(port), "--health-port", str(free_port()))
    until(lambda: "coordinator ready" in place.printed("up"), "the coordinator is up")
    certs_dir = place.folder / "coordinator" / "certs"
    trusted = ("--ca", str(certs_dir / "ca.crt"), "--coordinator-key", str(certs_dir / "coordinator.pub"))
    init = ("--data", str(scans), "--layout", "ixi", "--coordinator", f"localhost:{port}", *trusted)
    place.call("client", "--site", "hospitalA", "--init", *init)
    site_path = place.folder / "sites" / "hospitalA.yaml"
    text = site_path.read_text().replace("runtime_port: 9094", f"runtime_port: {free_port()}")
    site_path.write_text(text.replace("device: auto", "device: cpu") + PRIVACY)
    assert "epsilon 0.00 of 6 spent, 6.00 left" in place.call("client", "--site", "hospitalA", "--check")
    key = str(place.folder / "state" / "hospitalA" / "key" / "node.pub")
    place.call("server", "register", "--name", "hospitalA", key, "--subjects", "12")

    # THE FIRST RUN; the client is killed while the second round is reserved and not yet committed
    client = place.start("client", "client", "--site", "hospitalA")
    place.call("server", "submit", "--name", "first", *TASK)
    until(
        lambda: [r["kind"] for r in place.ledger()].count("reserved") == 2,
        "the second round begins",
        deadline_s=DEADLINE_S,
    )
    client.send_signal(signal.SIGKILL)
    client.wait(10)
    at_the_kill = [r["kind"] for r in place.ledger()]
    place.start("client", "client", "--site", "hospitalA")
    assert ended(place, "first") == "finished", read_events(place.run_dir("first"))[-5:]
    ledger = place.ledger()
    kinds = [r["kind"] for r in ledger if r["kind"] != "tested"]  # the run's one test, without noise
    assert kinds[: len(at_the_kill)] == at_the_kill
    if at_the_kill[-1] == "reserved":  # that it failed was known outside: it counts, and so does its repetition
        assert kinds == ["opened", "subjects", "reserved", "committed", "reserved", "reserved", "committed"]

    # THE SECOND RUN spends on; the coordinator hears of weights and of a public number, and nothing else
    place.call("server", "submit", "--name", "second", *TASK)
    assert ended(place, "second") == "finished", read_events(place.run_dir("second"))[-5:]
    steps = [r["steps"] for r in place.ledger() if r["kind"] == "reserved"]
    assert len(steps) == len([k for k in kinds if k == "reserved"]) + 2
    for run in ("first", "second"):
        finished = events_of(place.run_dir(run), RoundFinished)
        assert [(event.train_loss, event.seconds) for event in finished] == [({}, {})] * 2
        assert all(event.sites == {} for event in events_of(place.run_dir(run), ModelValidated))

    # A THIRD would go beyond the budget: the site sits out, and everybody sees why
    place.call("server", "submit", "--name", "third", *TASK, "privacy.noise_multiplier=1.0")
    assert ended(place, "third") != "finished"
    assert any(event.reason == BudgetError.public for event in events_of(place.run_dir("third"), SiteSatOut))
    assert len([r for r in place.ledger() if r["kind"] == "reserved"]) == len(steps)

    printed = place.call("client", "--site", "hospitalA", "--audit")
    assert BudgetError.public in printed
    rows = audit.read(place.folder / "state" / "hospitalA")
    trained = [row for row in rows if row.action == "train" and row.decision == "answered"]
    assert [sorted(row.left) for row in trained] == [["num_examples", "steps"]] * len(trained)
    assert {row.left["num_examples"] for row in trained} == {9}
    told = place.call("client", "--site", "hospitalA", "--check")
    (spent,) = re.findall(r"training budget +epsilon (\S+) of 6 spent", told)
    assert 0 < float(spent) < 6
