"""The C library's allocator, told to keep the memory that a step frees for the next step.

A step of a network takes and frees all its activations. glibc gives such large blocks back to the system at once, and
takes them again in the next step; each of their pages of 4 KiB is then cleared anew. That can be half of a prediction's
time on a CPU (`benchmarks/allocator.py`). Memory that is kept serves all later work of the process, and goes back when
the process ends, so a process stays as large as it was at its largest.
"""

import ctypes
import os

OF_GLIBC = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""glibc's own settings for this, in the environment. Whoever sets one of them decides in our place: with
`MALLOC_TRIM_THRESHOLD_=131072`, glibc's default, memory is given back as by any other program."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory() -> None:
    """Let this process keep freed memory, unless the environment has one of `OF_GLIBC`, or the C library is not glibc.

    No result changes.
    """
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names or any(name in os.environ for name in OF_GLIBC):
        return
    glibc = ctypes.CDLL(None)
    glibc.mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap as well, where they can be used again
    glibc.mallopt(M_TRIM_THRESHOLD, -1)  # and the heap never shrinks
