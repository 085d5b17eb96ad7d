import signal
import subprocess
import sys
from pathlib import Path


def test_status_is_watched_until_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "server", "status", "--watch", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("no coordinator in this folder")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
