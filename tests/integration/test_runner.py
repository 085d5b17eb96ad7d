"""The runner beside a real SuperLink and a real SuperNode: one run, whose bundle brings its own client code, asks one
site nine questions; some are wrong, one hangs, one is cut short by SIGTERM, two are repeated."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.numpy import save_file

from agi_core.errors import ConfigError, DeadlineError, StoppedError
from agi_core.protocol import PROTOCOL_VERSION, model_hash, pack, read_request
from agi_core.release import release
from agi_core.signatures import sign
from client.border import audit
from tests.support.real_processes import free_port
from tests.support.requests_by_hand import KEY, deployed_site, small_task

BIN = Path(sys.executable).parent
DEADLINE_S = 150.0
READY_S = 15.0  # a site is ready again so soon after its own deadline
SITE_DEADLINE_S = 8

SERVER_APP = """
import json, time
from pathlib import Path
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from safetensors.numpy import load_file
from agi_core.protocol import pack

app = ServerApp()

@app.main()
def main(grid, context):
    folder = Path(str(context.run_config["run-dir"]))
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    weights = pack(load_file(folder / "weights.safetensors"))
    for number, scalars in enumerate(json.loads((folder / "plan.json").read_text())):
        arrays = ArrayRecord({dtype: Array(flat) for dtype, flat in weights.arrays.items()})
        message = Message(RecordDict({"arrays": arrays, "scalars": ConfigRecord(scalars)}), nodes[0], "train")
        (sent,) = grid.push_messages([message])
        while not (replies := list(grid.pull_messages([sent]))):
            time.sleep(0.1)
        reply = replies[0]
        answer = {"t_s": time.time()}
        if reply.has_error():
            answer |= {"reason": reply.error.reason}
        else:
            answer |= {"scalars": dict(reply.content.config_records["scalars"])}
            answer |= {"metrics": {"train_loss": reply.content.metric_records["metrics"]["train_loss"]}}
            answer |= {"weights": reply.content.array_records["arrays"]["float32"].numpy().sum().item()}
        (folder / f"tmp-{number}").write_text(json.dumps(answer))
        (folder / f"tmp-{number}").rename(folder / f"answer-{number}.json")
"""
MALICIOUS_APP = """
import sys
from flwr.clientapp import ClientApp

with open("{marker}", "a") as marker:
    print(sys.argv, file=marker)
app = ClientApp()
"""
BUNDLE = """
[project]
name = "bundle"
version = "0.1.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "test"
fab-include = ["plan/**/*.py", "client/**/*.py"]
[tool.flwr.app.components]
serverapp = "plan.app:app"
clientapp = "client.app:app"
[tool.flwr.app.config]
run-dir = ""
"""


def wait_until(happens: Callable[[], Any], what: str, *, logs: Path) -> Any:
    """The first true value of `happens()`; the logs' ends when it does not come."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := happens()):
        if time.monotonic() > deadline:
            tails = [f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(logs.glob("*.log"))]
            raise AssertionError("\n".join([f"{what} did not come within {DEADLINE_S} s", *tails]))
        time.sleep(0.05)
    return value


class Processes:
    """Starts programs with a home and a log of their own, and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *command: str | Path) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*map(str, command)],
                cwd=self.folder,
                env=self.environment(name),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def environment(self, name: str) -> dict[str, str]:
        return os.environ | {
            "FLWR_HOME": str(self.folder / f"{name}-flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }

    def end(self) -> None:
        for process in reversed(self._running):
            if process.poll() is None:
                process.terminate()
        for process in self._running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@contextmanager
def ended(processes: Processes) -> Iterator[Processes]:
    try:
        yield processes
    finally:
        processes.end()


class Coordinator:
    """A SuperLink, and `flwr run` of a bundle whose client code leaves a marker wherever it is imported."""

    def __init__(self, processes: Processes) -> None:
        self._processes, self.folder, self.port = processes, processes.folder, free_port()
        self.run_dir = self.folder / "run"
        self.run_dir.mkdir()
        self.marker = self.folder / "marker"

    def start(self) -> None:
        self._processes.start(
            "superlink",
            BIN / "flower-superlink",
            *("--insecure", "--host", "127.0.0.1", "--port", str(self.port)),
            "--disable-runtime-dependency-installation",
        )
        wait_until(self._healthy, "the SuperLink", logs=self.folder)

    def submit(self, plan: list[dict[str, Any]]) -> None:
        (self.run_dir / "plan.json").write_text(json.dumps(plan))
        bundle = self.folder / "bundle"
        for name, text in {
            "pyproject.toml": BUNDLE,
            "plan/app.py": SERVER_APP,
            "plan/__init__.py": "",
            "client/__init__.py": "",
            "client/app.py": MALICIOUS_APP.format(marker=self.marker),
        }.items():
            (bundle / name).parent.mkdir(parents=True, exist_ok=True)
            (bundle / name).write_text(text)
        home = self.folder / "submit-flwr"
        home.mkdir()
        (home / "config.toml").write_text(f'[superlink.test]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n')
        submit = self._processes.start(
            "submit", BIN / "flwr", "run", bundle, "test", "--run-config", f'run-dir="{self.run_dir}"'
        )
        assert submit.wait(DEADLINE_S) == 0, (self.folder / "submit.log").read_text()

    def answer(self, number: int) -> dict[str, Any]:
        path = self.run_dir / f"answer-{number}.json"
        wait_until(path.exists, f"answer {number}", logs=self.folder)
        answer: dict[str, Any] = json.loads(path.read_text())
        return answer

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health", trust_env=False).is_success
        except httpx.TransportError:
            return False


class Hospital:
    """A SuperNode and our runner."""

    def __init__(self, processes: Processes, data_dir: Path, superlink_port: int) -> None:
        self._processes, self.folder, self._superlink_port = processes, processes.folder, superlink_port
        self.port = free_port()
        self.site_path = deployed_site(self.folder, data_dir, port=self.port)
        self.secret_path = self.folder / "secret"
        self.secret_path.write_bytes(b"0123456789abcdef0123456789abcdef")

    def start_node(self) -> None:
        self._processes.start(
            "supernode",
            BIN / "flower-supernode",
            *("--insecure", "--superlink", f"127.0.0.1:{self._superlink_port}"),
            *("--isolation", "process", "--superexec-auth-secret-file", str(self.secret_path)),
            *("--host", "127.0.0.1", "--port", str(self.port), "--node-config", 'site="Guys"'),
        )

    def start_runner(self, secret_path: Path | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "client.process.runner", "--site-file", str(self.site_path)]
        return self._processes.start("runner", *command, "--secret-file", str(secret_path or self.secret_path))

    def status(self) -> Mapping[str, Any]:
        path = self.folder / "state" / "status.json"
        status: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return status

    def wait_for_step(self, *, round: int) -> None:
        """Return when the runner reports training steps of `round`."""

        def steps() -> bool:
            status = self.status()
            return bool(status.get("round") == round and str(status.get("phase")).startswith("round"))

        wait_until(steps, f"a step of round {round}", logs=self.folder)

    def log(self) -> str:
        return (self.folder / "runner.log").read_text()


def workers(runner: subprocess.Popen[bytes]) -> list[int]:
    """The runner's child processes that do the work."""
    children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def group(pid: int) -> list[int]:
    """What is alive of the session that `pid` began."""
    alive = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = path.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, _, session = rest.split()[:4]
        if int(session) == pid and state != "Z":
            alive.append(int(path.parent.name))
    return alive


@pytest.mark.slow
def test_a_site_answers_with_its_own_code_whatever_is_asked(tmp_path: Path, ixi_dir: Path) -> None:
    task, weights = small_task("training.batch_size=5", "rounds=4")
    slow_task, _ = small_task("training.local_steps=1000000", "rounds=4")
    save_file(weights, tmp_path / "weights.safetensors")
    manifest = pack(weights).manifest
    other_manifest = manifest.replace("[8,", "[4,2,", 1)
    assert model_hash(other_manifest) != model_hash(manifest)

    def question(**changed: Any) -> dict[str, Any]:
        usual = {"protocol": PROTOCOL_VERSION, "action": "train", "run_id": "r", "round": 1, "nonce": "a", "task": task}
        usual |= {"subjects": "", "deadline_s": 120, "manifest": manifest, "secure_sum": "", "signature": ""}
        usual |= {"study": ""} | changed
        request = read_request(usual | {"protocol": PROTOCOL_VERSION}, pack(weights).arrays)
        return usual | {"signature": sign(request, KEY, site="Guys").signature, "release": release()} | changed

    with ended(Processes(tmp_path)) as processes, ExitStack() as stack:
        coordinator = Coordinator(processes)
        (tmp_path / "weights.safetensors").rename(coordinator.run_dir / "weights.safetensors")
        hospital = Hospital(processes, ixi_dir, coordinator.port)
        stack.callback(lambda: print(hospital.log()))
        runner = hospital.start_runner()  # first of all: it waits for its node
        coordinator.start()
        hospital.start_node()
        coordinator.submit(
            [
                question(),
                question(nonce="b"),
                question(protocol=1),
                question(manifest=other_manifest),
                question(task="{"),
                question(round=2, task=slow_task, deadline_s=SITE_DEADLINE_S),
                question(round=3),
                question(round=4, task=slow_task),
                question(round=3, nonce="c"),
            ]
        )

        # the installed code answers; a repeated request gets the same answer, with its own nonce
        first, again = coordinator.answer(0), coordinator.answer(1)
        assert first["scalars"]["nonce"] == "a"
        assert again == {**first, "scalars": {**first["scalars"], "nonce": "b"}, "t_s": again["t_s"]}
        assert first["metrics"]["train_loss"] > 0

        # refusals name both values, and nothing of the site
        assert coordinator.answer(2)["reason"].startswith(
            f"protocol version: the message has 1, this program {PROTOCOL_VERSION};"
        )
        theirs, ours = model_hash(other_manifest), model_hash(manifest)
        assert f"model hash: the message has {theirs}, this program {ours};" in coordinator.answer(3)["reason"]
        assert coordinator.answer(4)["reason"] == ConfigError.public

        # a step that hangs: the work is abandoned at its deadline, and the site is soon ready again
        hospital.wait_for_step(round=2)
        assert hospital.status()["state"] == "training"
        (hung,) = workers(runner)
        os.kill(hung, signal.SIGSTOP)
        late = coordinator.answer(5)
        assert late["reason"] == DeadlineError.public
        ready_s = coordinator.answer(6)["t_s"] - late["t_s"]
        assert ready_s < READY_S
        assert not Path(f"/proc/{hung}").exists()

        # SIGTERM in the middle of a step: a word to the coordinator, nothing left behind
        hospital.wait_for_step(round=4)
        began = time.monotonic()
        runner.terminate()
        assert runner.wait(DEADLINE_S) == 0
        stop_s = time.monotonic() - began
        assert stop_s < 5
        assert coordinator.answer(7)["reason"] == StoppedError.public
        wait_until(lambda: not group(runner.pid), "the end of the runner's processes", logs=tmp_path)
        assert hospital.status() == {}

        # another runner: the stored reply is still there
        hospital.start_runner()
        third, repeated = coordinator.answer(6), coordinator.answer(8)
        assert repeated["scalars"]["nonce"] == "c"
        assert (repeated["weights"], repeated["metrics"]) == (third["weights"], third["metrics"])
        rows = audit.read(hospital.folder / "state")  # those of the runner's own refusals, too
        decisions = ["answered"] * 2 + ["refused"] * 4 + ["answered", "refused", "answered"]
        assert [row.decision for row in rows] == decisions
        assert [rows[5].reason, rows[7].reason] == [DeadlineError.public, StoppedError.public]
        print(f"ready {ready_s:.1f} s after the late answer; stopped in {stop_s:.1f} s")
        assert not coordinator.marker.exists(), coordinator.marker.read_text()
        subprocess.run([sys.executable, "-c", "import client.app"], cwd=tmp_path / "bundle", check=True)
        assert coordinator.marker.exists()  # where the bundle's code does run, it leaves its mark


def test_a_runner_whose_node_is_away_waits_and_stops_at_once(tmp_path: Path, ixi_dir: Path) -> None:
    with ended(Processes(tmp_path)) as processes:
        hospital = Hospital(processes, ixi_dir, free_port())
        runner = hospital.start_runner()
        wait_until(lambda: "waiting for it" in hospital.log(), "the runner's word", logs=tmp_path)
        assert hospital.status()["state"] == "waiting"
        assert hospital.status()["pid"] == runner.pid
        began = time.monotonic()
        runner.terminate()
        assert runner.wait(DEADLINE_S) == 0
        assert time.monotonic() - began < 5
        wait_until(lambda: not group(runner.pid), "the end of the runner's processes", logs=tmp_path)


def test_another_secret_is_refused_in_a_sentence(tmp_path: Path, ixi_dir: Path) -> None:
    with ended(Processes(tmp_path)) as processes:
        hospital = Hospital(processes, ixi_dir, free_port())
        hospital.start_node()  # its Runtime API is there before any SuperLink
        (tmp_path / "other").write_bytes(b"another secret")
        runner = hospital.start_runner(tmp_path / "other")
        assert runner.wait(DEADLINE_S) == 1, hospital.log()
        assert "give both the same secret file" in hospital.log()
        assert "Traceback" not in hospital.log()
