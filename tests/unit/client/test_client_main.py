"""What a hospital engineer types, from `--init` to Ctrl-C."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agi_core.host.keys import fingerprint
from client.__main__ import announcement, main, programs
from client.process.lock import only_client
from client.site.file import read_deployed_site
from client.site.keys import make_key, public_key
from tests.support.small_data import write_ixi

DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def init(*options: str) -> Path:
    assert main(["--site", "hospitalA", "--init", *options]) == 0
    return Path("sites/hospitalA.yaml")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_init_writes_a_site_file_that_can_be_read_and_says_what_to_send(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = tmp_path / 'my "scans": #1'
    path = init("--data", str(scans), "--layout", "bids", "--coordinator", "agi.example.org:443", "--ca", "pki/ca.crt")
    site = read_deployed_site(path)
    assert (site.site, site.data.dir, site.data.layout) == ("hospitalA", str(scans), "bids")
    assert site.coordinator.address == "agi.example.org:443"
    assert site.coordinator.ca_file == str(tmp_path / "pki" / "ca.crt")
    key_path = Path(site.key_file)
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_path.resolve().parent.stat().st_mode) == 0o700
    out = capsys.readouterr().out
    assert public_key(key_path) in out
    assert fingerprint(public_key(key_path)) in out
    assert "--site hospitalA --check" in out


def test_init_refuses_to_overwrite_and_keeps_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    path = init()
    path.write_text(path.read_text() + "# mine\n")
    key_path = Path(read_deployed_site(path).key_file)
    key = key_path.read_bytes()
    assert main(["--site", "hospitalA", "--init"]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert "# mine" in path.read_text()
    path.unlink()
    init()
    assert key_path.read_bytes() == key


def test_init_alone_gives_placeholders_that_the_check_names(capsys: pytest.CaptureFixture[str]) -> None:
    init()
    assert main(["--site", "hospitalA", "--check"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"FAILED +scans .*/path/to/scans", out)
    assert re.search(r"FAILED +CA file .*ca\.crt", out)
    assert "not ready" in out
    assert "-> " in out


def test_mistakes_are_sentences_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--check", "--dry-run", None):
        assert main(["--site", "nobody", *([option] if option else [])]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: site file sites/nobody.yaml does not exist")
        assert "--init" in error
    init()
    assert main(["--site", "hospitalA"]) == 2  # no ca.crt yet
    assert "coordinator.ca_file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--check"], "--site"),
        (["--site", "../../etc", "--check"], "letters, digits"),
        (["--site", "a", "--init", "--coordinator", "https://x"], "HOST:PORT"),
        (["--site", "a", "--init", "--check"], "not allowed with"),
    ],
)
def test_the_command_line_explains_itself(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert told in capsys.readouterr().err


def test_help_gives_the_usual_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    for words in ("--init once", "send the public key", "Exit codes: 0 done, 1 a check failed", "Ctrl-C"):
        assert words in out


def test_a_dry_run_measures_and_needs_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init("--data", str(write_ixi(tmp_path / "ixi", {"Guys": 3})))
    assert main(["--site", "hospitalA", "--dry-run"]) == 0
    out = capsys.readouterr().out
    for what in ("reading", "first training step", "next training step", "evaluation of"):
        assert re.search(rf"{what}.* \d+\.\d\d s  peak +\d+\.\d\d GB", out), out
    assert re.search(r"a round of 40 steps trains for \d+ s", out)


def test_a_dry_run_takes_the_coordinators_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init("--data", str(write_ixi(tmp_path / "ixi", {"Guys": 3})))
    volumes = ("model.dims=3", "model.widths=[4,8]", "grid.crop=[16,16,16]", "grid.spacing_mm=[8,8,8]")
    assert main(["--site", "hospitalA", "--dry-run", *volumes, "training.local_steps=7"]) == 0
    out = capsys.readouterr().out
    assert "model.dims=3" in out
    assert re.search(r"a round of 7 steps trains for \d+ s", out)
    assert main(["--site", "hospitalA", "--check", "model.dims=3"]) == 2
    assert "settings are for --dry-run" in capsys.readouterr().err


def test_what_leaves_is_announced(tmp_path: Path) -> None:
    site = read_deployed_site(init("--coordinator", "agi.example.org:443"))
    text = announcement(site, public_key(Path(site.key_file)))
    for words in (
        "model's weights",
        "fewer than 10 subjects",
        "train_loss",
        "agi.example.org:443 only",
        "scans, file names",
    ):
        assert words in text


def test_the_node_gets_no_path_of_the_site_and_never_runs_without_tls(tmp_path: Path) -> None:
    path = init()
    node, runner = programs(read_deployed_site(path), site_path=path, secret_path=tmp_path / "secret")
    assert node.command[node.command.index("--node-config") + 1] == 'site="hospitalA"'
    assert node.command[node.command.index("--isolation") + 1] == "process"
    assert "--insecure" not in node.command
    assert runner.command[1:] == (
        "-m",
        "client.process.runner",
        "--site-file",
        str(path.resolve()),
        "--secret-file",
        *runner.command[-1:],
    )


# the real node and runner


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (value := what()):
        assert time.monotonic() < deadline, "the deadline passed"
        time.sleep(0.05)
    return value


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_node_and_runner_start_and_ctrl_c_ends_both_within_10_s(tmp_path: Path) -> None:
    make_key(tmp_path / "key", site="hospitalA")
    scans = write_ixi(tmp_path / "ixi", {"Guys": 3})
    ca = subprocess.run(
        [sys.executable, "-c", "import certifi; print(certifi.where())"], capture_output=True, text=True
    )
    Path("a.yaml").write_text(
        f"site: hospitalA\ndata: {{dir: {scans}, layout: ixi}}\ncache_dir: cache\nstate_dir: state\nkey_file: key\n"
        f"coordinator: {{address: '127.0.0.1:{free_port()}', ca_file: {ca.stdout.strip()}}}\n"
        f"device: cpu\nruntime_port: {free_port()}\n"
    )
    with Path("out").open("wb") as out:
        client = subprocess.Popen(
            [sys.executable, "-m", "client", "--site-file", "a.yaml"],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    children: list[int] = []
    try:
        wait_for(lambda: "cannot be reached" in Path("out").read_text() or client.poll() is not None)
        assert client.poll() is None, Path("out").read_text()
        children = children_of(client.pid)
        assert len(children) == 2
        assert stat.S_IMODE((tmp_path / "state" / "runtime.secret").stat().st_mode) == 0o600
        assert main(["--site-file", "a.yaml"]) == 2  # one client per site
        started = time.monotonic()
        client.send_signal(signal.SIGINT)
        assert client.wait(DEADLINE_S) == 0
        assert time.monotonic() - started < 10
        assert not any(Path(f"/proc/{child}").exists() for child in children)
        with only_client(tmp_path / "state"):
            pass
        assert "stopped" in Path("out").read_text()
    finally:
        for pid in (client.pid, *children):
            if Path(f"/proc/{pid}").exists():
                os.killpg(pid, signal.SIGKILL)
        client.wait()
