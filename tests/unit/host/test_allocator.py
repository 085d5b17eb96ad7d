"""Counted in processes of their own: the setting holds for a whole process, and for ever."""

import os
import subprocess
import sys

import pytest

from agi_core.host.allocator import OF_GLIBC

COUNT_FAULTS = """
import resource
from agi_core.host.{module} import {function}

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        b"x" * (40 * 2**20)  # above the 32 MiB from which on glibc never keeps a block by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
{call}
print(faults())
"""


def faults(code: str, **settings: str) -> tuple[int, int]:
    """Page faults of taking and freeing the same block again and again: before and after the call in `code`."""
    inherited = {name: value for name, value in os.environ.items() if name not in OF_GLIBC}
    run = subprocess.run([sys.executable, "-c", code], env=inherited | settings, check=True, capture_output=True)
    before, after = map(int, run.stdout.split())
    return before, after


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="not glibc")
def test_programs_that_compute_keep_freed_memory_for_the_next_block() -> None:
    before, after = faults(
        COUNT_FAULTS.format(module="device", function="open_device", call="open_device('cpu', threads=1)")
    )
    assert after < before / 10


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="not glibc")
def test_a_setting_of_glibc_in_the_environment_decides_in_our_place() -> None:
    before, after = faults(
        COUNT_FAULTS.format(module="allocator", function="keep_freed_memory", call="keep_freed_memory()"),
        MALLOC_TRIM_THRESHOLD_="131072",
    )
    assert after > before / 2
