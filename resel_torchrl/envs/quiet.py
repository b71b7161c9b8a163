"""Keeps the C-level chatter of simulators from the user's terminal."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["silence"]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # may be None or closed
            stream.flush()
    with suppress(AttributeError, OSError, TypeError):  # no C library to be had
        ctypes.CDLL(None).fflush(None)


@contextmanager
def silence(*descriptors: int) -> Iterator[None]:
    """Sends file descriptors to the null device for a while.

    ``sys.stdout`` cannot catch what a C library prints, its descriptor can; but the
    descriptor is the whole process's, so keep the block short. What is still buffered
    before the block is written out first, and what the block buffers is dropped with
    it. A descriptor that the process does not have open is left alone.

    Args:
        *descriptors: 1 for standard output, 2 for standard error.

    Examples:
        >>> import os
        >>> with silence(1):
        ...     _ = os.write(1, b"not to be seen")
    """
    _flush()
    saved = {}
    try:
        for descriptor in descriptors:
            with suppress(OSError):
                saved[descriptor] = os.dup(descriptor)
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in saved:
            os.dup2(null, descriptor)
        os.close(null)
        yield
    finally:
        _flush()
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)
