"""What the task families share: simulators, options of episodes, processes."""

from __future__ import annotations

import ctypes
import importlib
import logging
import numbers
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

__all__ = [
    "MUJOCO_ROBOTS",
    "Reset",
    "Step",
    "episode_value",
    "import_simulator",
    "log_mujoco_warnings",
    "make_mujoco_robot",
    "signals_held_back",
    "silence",
    "whole_number",
]

#: What ``reset`` and ``step`` of an environment return.
Reset = tuple[np.ndarray, dict[str, Any]]
Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]

MUJOCO_ROBOTS = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "Walker2d")

_logger = logging.getLogger(__name__)


def import_simulator(module: str, *, extra: str) -> ModuleType:
    """Imports a module of a simulator, or names the extra that installs it.

    Raises:
        ModuleNotFoundError: if it, or something it imports, is not installed.
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


def make_mujoco_robot(robot: str, **kwargs: Any) -> gymnasium.Env:
    """Makes Gymnasium's -v5 robot without a wrapper, MuJoCo's warnings logged.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
        ValueError: if there is no such robot.
    """
    if robot not in MUJOCO_ROBOTS:
        raise ValueError(
            f"expected a robot out of {', '.join(MUJOCO_ROBOTS)}, got {robot!r}"
        )
    log_mujoco_warnings()
    import_simulator("gymnasium.envs.mujoco", extra="mujoco")
    spec = gymnasium.spec(f"{robot}-v5")
    return load_env_creator(spec.entry_point)(**{**spec.kwargs, **kwargs})


def log_mujoco_warnings() -> None:
    """Sends MuJoCo's warnings to Python's logging, unless a handler is installed.

    Left to itself MuJoCo prints them and writes ``MUJOCO_LOG.TXT`` into the working
    directory. Heed a warning of an unstable simulation: MuJoCo meets it by putting the
    robot back to its initial state within the episode, where no number is NaN.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
    """
    mujoco = import_simulator("mujoco", extra="mujoco")
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_log_mujoco)


def _log_mujoco(message: str) -> None:
    # A deprecated attribute in a robot's model is nothing a user could act on.
    level = logging.DEBUG if "deprecated" in message else logging.WARNING
    _logger.log(level, "MuJoCo: %s", message)


@contextmanager
def silence(*descriptors: int) -> Iterator[None]:
    """Sends file descriptors (1: standard output, 2: error) to the null device.

    ``sys.stdout`` cannot catch what a C library prints, its descriptor can; but that is
    the whole process's, so keep the block short. What is buffered before the block is
    written out first. A descriptor that is not open is left alone.
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


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # may be None or closed
            stream.flush()
    with suppress(AttributeError, OSError, TypeError):  # no C library to be had
        ctypes.CDLL(None).fflush(None)


def whole_number(name: str, value: Any, most: int | None = None) -> int:
    """Checks that a value is a whole number from 1 to ``most``.

    Raises:
        ValueError: if it is not; the message calls it ``name``.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < 1 or (most is not None and value > most):
        limits = "of 1 or more" if most is None else f"from 1 to {most}"
        raise ValueError(
            f"expected {name} to be a whole number {limits}, got {value!r}"
        )
    return int(value)


def episode_value(options: Mapping[str, Any] | None, name: str, most: int) -> int:
    """Reads the only option that a task's ``reset`` takes; ``most`` without.

    Raises:
        ValueError: from another option, or a value that is not in 1 to ``most``.
    """
    options = options or {}
    for given in options:
        if given != name:
            raise ValueError(f"expected no reset option but {name!r}, got {given!r}")
    return whole_number(name, options.get(name, most), most)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Keeps SIGINT and SIGTERM from the processes that are started in the block.

    A terminal sends Ctrl-C, and a cluster SIGTERM, to all; the learner alone is to act.
    Such a process is ended by `kill`: `terminate` sends the SIGTERM it does not get.
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
