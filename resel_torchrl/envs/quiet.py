"""Keeps the C-level chatter of simulators from the user's terminal."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["silence_stdout"]


def _flush() -> None:
    with suppress(AttributeError, OSError, ValueError):  # stdout may be None or closed
        sys.stdout.flush()
    with suppress(OSError, TypeError, AttributeError):  # no C library to be had
        ctypes.CDLL(None).fflush(None)


@contextmanager
def silence_stdout() -> Iterator[None]:
    """Sends file descriptor 1 to the null device for a while.

    Python's ``sys.stdout`` cannot catch what a C library prints; the descriptor is the
    whole process's, so keep the block short. Output still buffered before the block is
    written out first, and what the block buffers is dropped with it. Does nothing in a
    process that has no descriptor 1.

    Examples:
        >>> import os
        >>> with silence_stdout():
        ...     _ = os.write(1, b"not to be seen")
    """
    _flush()
    try:
        saved = os.dup(1)
    except OSError:
        yield
        return
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
        yield
    finally:
        _flush()
        os.dup2(saved, 1)
        os.close(saved)
