"""How a command ends, and the types of arguments."""

import argparse
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agi_core.errors import ConfigError
from agi_core.host.command_line import count, named_path, positive, run_command, seed


def raising(error: BaseException) -> Callable[[], int | None]:
    def command() -> int | None:
        raise error

    return command


@pytest.mark.parametrize(("told", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_command_that_ends_by_itself(told: int | None, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: told) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("rounds=0 must be at least 1"), 2, "error: rounds=0 must be at least 1\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/data"),
            2,
            "error: /data: Permission denied; check its permissions and the free disk space\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "error: runs/a: No space left on device; check its permissions and the free disk space\n",
        ),
        (KeyboardInterrupt(), 130, "\ninterrupted; --resume goes on\n"),
    ],
)
def test_a_command_that_is_broken_off(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raising(error), place=lambda: Path("runs/a"), hint=lambda: "--resume goes on") == code
    assert capsys.readouterr() == ("", message)


def test_without_a_place_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(OSError(errno.ENOSPC, "No space left on device"))) == 2
    assert capsys.readouterr().err.startswith("error: .: No space left on device;")
    assert run_command(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_a_programming_error_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (count, {"1": 1, "12": 12}, ("0", "-1", "1.5", "", "one")),
        (seed, {"0": 0, "7": 7}, ("-1", "0.5", "", "x")),
        (positive, {"0.5": 0.5, "8": 8.0, "1e-5": 1e-5}, ("0", "-1", "nan", "inf", "", "x")),
        (named_path("NAME=FILE"), {"T1=a=b.nii": ("T1", Path("a=b.nii"))}, ("T1", "=a.nii", "T1=", "")),
    ],
)
def test_types_of_arguments(kind: Callable[[str], object], good: dict[str, object], bad: tuple[str, ...]) -> None:
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=r"^write .* not"):
            kind(text)


def test_names_in_a_mistake_stay_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(ConfigError("no folder a\nb\x1b[31m\u202egnp\udcff"))) == 2
    assert capsys.readouterr().err == "error: no folder a\\nb\\x1b[31m\\u202egnp\\udcff\n"


def test_a_terminal_that_lacks_a_letter_gets_its_escape() -> None:
    program = "from agi_core.host.command_line import run_command; run_command(lambda: print('K\\xf8ge \\u0141\\xf3d'))"
    environment = {**os.environ, "PYTHONIOENCODING": "iso-8859-1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout == b"K\xf8ge \\u0141\xf3d\n"


def test_what_a_command_writes_is_for_its_user_alone(tmp_path: Path) -> None:
    """The cache of prepared scans too, wherever its folder is."""
    program = """
import os
from pathlib import Path
from agi_core.host import atomic
from agi_core.host.command_line import run_command
os.umask(0o022)
run_command(lambda: atomic.write_bytes(Path("elsewhere/train/entry"), b"scan"))
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    written = sorted(tmp_path.rglob("*"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in written] == [0o700, 0o700, 0o600]
