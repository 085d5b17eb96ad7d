"""In processes of their own, since logging belongs to a whole process."""

import logging
import stat
import subprocess
import sys
from pathlib import Path

from client.process.logs import NOT_WRITTEN, Details

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


def test_a_full_disk_lets_nobodys_name_out(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "details.log").symlink_to("/dev/full")
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, timeout=60)
    assert SECRET not in done.stderr
    assert "training: run 'first', round 3" in done.stderr
    assert done.stderr.count(NOT_WRITTEN) == 6, done.stderr


def test_a_large_file_makes_room(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "details.log").write_bytes(bytes(10 * 2**20 + 1))
    subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, check=True, timeout=60)
    assert (tmp_path / "logs" / "details.log").stat().st_size < 10_000
    assert (tmp_path / "logs" / "details.log.1").stat().st_size > 10 * 2**20


def test_two_programs_that_run_for_years_fill_no_disk(tmp_path: Path) -> None:
    path = tmp_path / "details.log"
    runner, worker = Details(path, encoding="utf-8"), Details(path, encoding="utf-8")
    record = logging.LogRecord("client", logging.INFO, "", 0, "x" * 2**20, None, None)
    for handler in (runner, worker) * 12:
        handler.emit(record)
    runner.close()
    worker.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["details.log", "details.log.1"]
    assert all(file.stat().st_size <= 11 * 2**20 + 11 for file in tmp_path.iterdir())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
