import signal
import subprocess
import sys
from functools import partial
from pathlib import Path


def test_status_is_watched_until_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "server", "status", "--watch", "--dir", str(tmp_path)]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell starts its background jobs deaf to it
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("no coordinator in this folder")
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")
