"""What becomes of memory that is freed."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# Of glibc's mallopt, number and value: blocks of up to 32 MiB (the most it takes) come
# from the heap, which grows by 64 MiB and never shrinks.
_OPTIONS = {-3: 32 << 20, -2: 64 << 20, -1: 2**31 - 1}


def keep_freed_memory() -> bool:
    """Has the process keep what it frees for its next use, if its C library is glibc.

    Every update needs the same memory as the one before. By itself glibc hands much of
    it back to the system in between, which has to clear it page by page when it is
    asked for again: some twentieth of the time of an update on a CPU. The process then
    stays as large as it has been at its largest. Results do not change.

    Returns:
        Whether the C library has this choice.

    >>> keep_freed_memory() in (True, False)
    True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(option, value) for option, value in _OPTIONS.items()])
