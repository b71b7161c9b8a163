"""The work of a kernel, shared out among PyTorch's threads."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

__all__ = ["run_items"]

_TeamFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PROCESS = os.getpid()


def run_items(items: int, run: Callable, *arguments) -> None:
    """Call ``run(first, last, *arguments)`` for all items, on PyTorch's thread count.

    The threads are those of the OpenMP team that PyTorch's own operations run on, where
    it can be had: between two operations they wait in a loop, and threads of our own
    would have to share the cores with that.

    Args:
        items: number of items.
        run: works on the items ``first`` to ``last - 1`` without the interpreter's
            lock, and computes an item in the same way whichever thread it is on.
        arguments: what it gets besides.
    """
    threads = min(torch.get_num_threads(), items)
    if threads <= 1:
        run(0, items, *arguments)
        return
    edges = [items * i // threads for i in range(threads + 1)]
    parts = itertools.pairwise(edges)
    # The team of a process does not live on in its forks.
    run_team = _openmp_team() if os.getpid() == _PROCESS else None
    if run_team is None:
        jobs = [_pool(os.getpid()).submit(run, *part, *arguments) for part in parts]
        for job in jobs:
            job.result()
        return

    failures: list[BaseException] = []
    present: set[int] = set()

    def work(_: int | None) -> None:
        try:
            present.add(threading.get_ident())
            for part in parts:
                run(*part, *arguments)
        except BaseException as error:  # a function called from C cannot raise
            failures.append(error)

    run_team(_TeamFunction(work), None, threads, 0)
    if threading.get_ident() not in present:
        # A signal's handler raised on the way into `work`, where C dropped it.
        failures.append(KeyboardInterrupt())
    try:
        if failures:
            raise failures[0]
    finally:
        failures.clear()  # else its traceback would hold on to all arguments


@functools.cache
def _openmp_team() -> Callable | None:
    """Find OpenMP's entry that runs a function on a team, where PyTorch finds it.

    First in what the whole process shares, such as a preloaded library, then in what
    PyTorch is linked to. None where there is none, as on macOS and Windows.
    """
    library = Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"
    if not library.exists():
        return None
    for scope in (None, str(library)):
        try:
            run_team = ctypes.CDLL(scope).GOMP_parallel
        except (OSError, AttributeError):
            continue
        unsigned = ctypes.c_uint
        run_team.argtypes = _TeamFunction, ctypes.c_void_p, unsigned, unsigned
        run_team.restype = None
        return run_team
    return None


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of a process; a fork has none of its parent's."""
    return ThreadPoolExecutor(os.cpu_count())
