"""The buffers of one upload, used again for the next.

By default, glibc gives freed blocks of that size back to the kernel and then gets them again page
by page, which takes more than half of the CPU time of a 1 MB upload.
"""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # see mallopt(3)
MIB = 1024 * 1024


def keep_freed_blocks() -> None:
    """Let the process keep what it frees, up to some megabytes a thread; glibc only."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 32 * MIB)
        mallopt(M_TRIM_THRESHOLD, 64 * MIB)
