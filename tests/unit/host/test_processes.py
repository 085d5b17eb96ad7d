"""Real processes that start others, and are killed or ask for the end."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agi_core.host.processes import has_ended

DEADLINE_S = 30.0
PARENT = """
import os, subprocess, sys, time
from functools import partial
from agi_core.host.processes import die_with
command = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(command, preexec_fn=partial(die_with, os.getpid()), start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""
ADOPTER = """
import subprocess, sys, time
from agi_core.host.processes import adopt_orphans, descendants, end_descendants
adopt_orphans()
grandchild = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {grandchild!r}], start_new_session=True)"
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
process.stdout.readline()
process.wait()
(orphan,) = descendants()
print(orphan, flush=True)
started = time.monotonic()
end_descendants(within_s=0.5)
print(descendants(), time.monotonic() - started >= 0.5, flush=True)
"""


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.02)


def is_gone(process: int) -> bool:
    """Whether it has ended; one that nobody has reaped yet has."""
    try:
        return "(zombie)" in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_child_dies_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not is_gone(child)
        parent.kill()
    until(lambda: is_gone(child), "the child's end")


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    code = "import os; from agi_core.host.processes import die_with; die_with(os.getppid() + 1); print('alive')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")


def test_orphans_are_found_and_killed_when_they_do_not_end() -> None:
    done = subprocess.run([sys.executable, "-c", ADOPTER], capture_output=True, text=True, timeout=60, check=True)
    orphan, after = done.stdout.splitlines()
    assert after == "[] True"
    assert is_gone(int(orphan))


def test_a_process_that_nobody_has_reaped_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not has_ended(child.pid)
    child.kill()
    until(lambda: has_ended(child.pid), "the child's end")  # it is a zombie
    child.communicate()
    assert has_ended(child.pid)
