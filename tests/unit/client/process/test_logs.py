"""In processes of their own, since logging belongs to a whole process."""

import stat
import subprocess
import sys
from pathlib import Path

SECRET = "sub-0042"
PROGRAM = f"""
import logging, sys, warnings
from pathlib import Path
from agi_core.errors import DataError
from client.process.logs import keep_logs

keep_logs(Path(sys.argv[1]))
log = logging.getLogger("client")
log.info("%s: run %r, round %d", "training", "first", 3)
log.warning("%s cannot be read (%s) after %d s", "/data/{SECRET}", OSError("{SECRET}"), 7)
log.error("%s: %s", "hospitalA", DataError("{SECRET} is broken"))
try:
    raise ValueError("{SECRET}")
except ValueError:
    log.exception("the request could not be answered")
logging.getLogger("nibabel").error("{SECRET} has no affine")
warnings.warn("{SECRET} has no affine")
"""


def test_what_is_printed_names_nobody_and_the_details_say_all(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    printed = [line.split(" client: ")[1] for line in done.stderr.splitlines()]
    assert printed == [
        "training: run 'first', round 3",
        "… cannot be read (…) after 7 s (in full: details.log)",
        "…: The site's data does not fit the request. (in full: details.log)",
        "the request could not be answered (in full: details.log)",
    ]
    path = tmp_path / "logs" / "details.log"
    assert path.read_text().count(SECRET) == 6
    assert "Traceback" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_large_file_makes_room(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "details.log").write_bytes(bytes(10 * 2**20 + 1))
    subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, check=True, timeout=60)
    assert (tmp_path / "logs" / "details.log").stat().st_size < 10_000
    assert (tmp_path / "logs" / "details.log.1").stat().st_size > 10 * 2**20
