"""The memory of one upload, used again for the next.

By default, glibc gives freed blocks of an upload's size back to the kernel and then gets them again
page by page, which takes more than half of the CPU time of a 1 MB upload; and each thread keeps
free blocks of its own, which add up.
"""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # see mallopt(3)
MIB = 1024 * 1024


def keep_freed_blocks() -> None:
    """Let the process keep up to 16 MiB that it freed, for all its threads; glibc only."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, MIB)
        mallopt(M_TRIM_THRESHOLD, 16 * MIB)
