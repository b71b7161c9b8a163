"""Keeps the C-level chatter of simulators from the user's terminal."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import numbers
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from types import ModuleType
from typing import Any

__all__ = [
    "episode_value",
    "import_simulator",
    "signals_held_back",
    "silence",
    "whole_number",
]


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


def whole_number(name: str, value: Any, most: int | None = None) -> int:
    """A value that must be a whole number of 1 or more.

    Args:
        name: what it is called, for the error.
        value: what was given.
        most: the largest value allowed; ``None`` for any.

    Raises:
        ValueError: if it is something else.

    Examples:
        >>> whole_number("length", 50)
        50
        >>> whole_number("runs", 41, most=40)
        Traceback (most recent call last):
        ...
        ValueError: expected runs to be a whole number from 1 to 40, got 41
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < 1 or (most is not None and value > most):
        limits = "of 1 or more" if most is None else f"from 1 to {most}"
        raise ValueError(
            f"expected {name} to be a whole number {limits}, got {value!r}"
        )
    return int(value)


def episode_value(options: Mapping[str, Any] | None, name: str, most: int) -> int:
    """The value of an episode: that of ``reset``'s options, else the largest.

    Args:
        options: of the environment's ``reset``.
        name: the one option that the environment knows.
        most: the largest value allowed, the environment's own.

    Raises:
        ValueError: from another option, or a value that is not in 1 to ``most``.

    Examples:
        >>> episode_value({"length": 5}, "length", 50), episode_value({}, "length", 50)
        (5, 50)
        >>> episode_value({"lenght": 5}, "length", 50)
        Traceback (most recent call last):
        ...
        ValueError: expected no reset option but 'length', got 'lenght'
    """
    for given in options or {}:
        if given != name:
            raise ValueError(f"expected no reset option but {name!r}, got {given!r}")
    return whole_number(name, (options or {}).get(name, most), most)


def import_simulator(module: str, *, extra: str) -> ModuleType:
    """Imports ``module``, or says how to install it.

    Args:
        module: dotted name of the module.
        extra: the extra of this package that installs it.

    Raises:
        ModuleNotFoundError: if it, or something it imports, is not installed.

    Examples:
        >>> import_simulator("math", extra="bullet").pi > 3
        True
        >>> import_simulator("no_such_simulator", extra="bullet")
        Traceback (most recent call last):
        ...
        ModuleNotFoundError: this task needs the package 'no_such_simulator', which is \
not installed: pip install "resel_torchrl[bullet]"
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        raise ModuleNotFoundError(
            f"this task needs the package {package!r}, which is not installed: "
            f'pip install "resel_torchrl[{extra}]"',
            name=package,
        ) from error


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
