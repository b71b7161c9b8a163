"""Processes that leave Ctrl-C and SIGTERM to the one that started them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker

__all__ = ["signals_held_back"]


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """A process started meanwhile does not get SIGINT and SIGTERM: the learner does.

    A terminal sends Ctrl-C, and a cluster SIGTERM, to both. Such a process is ended by
    `kill`; `terminate` sends the SIGTERM that it does not get.

    >>> with signals_held_back():
    ...     pass
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it lets them through again when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
