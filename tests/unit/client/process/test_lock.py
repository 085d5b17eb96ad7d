"""The lock of a state folder, held by real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agi_core.errors import RunError
from client.process.lock import NAME, client_runs, only_client, other_owner

HOLDER = """
import sys, time
from pathlib import Path
from client.process.lock import only_client
with only_client(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_client_is_refused_with_the_first_ones_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        assert client_runs(tmp_path)
        refusal = rf"already running as process {first.pid}.*kill {first.pid}"
        with pytest.raises(RunError, match=refusal), only_client(tmp_path):
            pass
        first.kill()
    with only_client(tmp_path):  # its lock went with it
        assert client_runs(tmp_path)


def test_a_stale_lock_file_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("99999\n")
    assert not client_runs(tmp_path)
    with only_client(tmp_path):
        assert (tmp_path / NAME).read_text() == f"{os.getpid()}\n"
    assert not client_runs(tmp_path)
    assert not client_runs(tmp_path / "nowhere")


def test_a_closed_folder_is_that_of_whoever_closed_it(tmp_path: Path) -> None:
    """By a process of another user, as far as the tests may start one."""
    assert other_owner(tmp_path) is None
    assert other_owner(tmp_path / "nowhere") is None
    if os.geteuid():
        pytest.skip("only root can be somebody else")
    (tmp_path / "closed").mkdir(mode=0o700)
    program = (
        "import os, sys; from pathlib import Path; from client.process.lock import other_owner;"
        "os.setuid(65534); print(other_owner(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "closed" / "state")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert told.strip() == "root"


def test_a_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="state_dir"), only_client(tmp_path / "file"):
        pass
