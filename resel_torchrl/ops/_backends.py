"""Which implementation of an operation runs: names, what they need, and the choice."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torchrl import torchrl_logger

from resel_torchrl._nearest import did_you_mean


@torch.compiler.assume_constant_result
def is_usable(package: str) -> bool:
    """Whether an optional package is installed and can be imported.

    Numba is strict about the versions of what it runs on, and raises otherwise.

    Examples:
        >>> is_usable("torch"), is_usable("no_such_package")
        (True, False)
    """
    return _can_be_imported(package)


@functools.cache
def _can_be_imported(package: str) -> bool:
    if find_spec(package) is None:
        return False
    try:
        importlib.import_module(package)
    except ImportError as error:
        torchrl_logger.warning(f"{package} is installed but not usable: {error}")
        return False
    return True


_LOADED: dict[tuple[str, str], Callable] = {}


@dataclass(frozen=True)
class Backend:
    """An implementation of an operation, imported when it is first used.

    Args:
        module: where it is.
        function: its name there.
        package: the optional package that it needs.
        extra: what ``pip install resel_torchrl[...]`` installs that with.
        device: the only type of device that it runs on; None for any.
        fused: whether it does what stands around the operation too.
        blank_rows: blank rows that it needs before each start inside of a row.
        pip_options: what that command needs besides, with a space before it.
        loops: whether it is a loop over time in Python, which `torch.compile` would
            write out step by step; it is left out of compiled graphs.
    """

    module: str
    function: str
    package: str | None = None
    extra: str | None = None
    device: str | None = None
    fused: bool = False
    blank_rows: int = 0
    pip_options: str = ""
    loops: bool = False

    def is_installed(self) -> bool:
        """Whether the package that it needs is there."""
        return self.package is None or is_usable(self.package)

    def suits(self, x: Tensor) -> bool:
        """Whether ``"auto"`` may choose it: installed, for any rows of this kind."""
        return (
            x.device.type == self.device
            and x.dtype == torch.float32
            and not self.blank_rows
            and self.is_installed()
        )


def load(backend: Backend) -> Callable:
    """The function itself."""
    key = backend.module, backend.function
    if key not in _LOADED:
        function = getattr(importlib.import_module(key[0]), key[1])
        _LOADED[key] = torch.compiler.disable(function) if backend.loops else function
    return _LOADED[key]


def load_all(backends: Mapping[str, Backend], device: str) -> None:
    """Loads what may run on a type of device: `torch.compile` cannot trace an import.

    Examples:
        >>> load_all({"sqrt": Backend("math", "sqrt")}, "cpu")
    """
    for backend in backends.values():
        if backend.device in (None, device) and backend.is_installed():
            load(backend)


def check_backend(backend: str, backends: Mapping[str, Backend], operation: str) -> str:
    """Returns ``backend`` if it can be used here.

    Args:
        backend: its name or ``"auto"``.
        backends: implementations by name.
        operation: what they implement, for the message.

    Raises:
        ValueError: if there is no such one; the message lists those that are.
        ModuleNotFoundError: if it needs a package that is not installed; the message
            says how to get it.
    """
    names = ["auto", *backends]
    if backend not in names:
        raise ValueError(
            f"Unknown {operation} backend {backend!r}: expected one of {names}."
            + did_you_mean(backend, names)
        )
    if backend != "auto" and not backends[backend].is_installed():
        missing = backends[backend]
        raise ModuleNotFoundError(
            f"{operation} backend {backend!r} expected the package {missing.package}, "
            f"got none. Install it with: pip install 'resel_torchrl[{missing.extra}]'"
            f"{missing.pip_options}, "
            "or leave backend at 'auto', which takes the fastest that is there."
        )
    return backend


def device_type(backend: str, backends: Mapping[str, Backend]) -> str | None:
    """The only type of device that ``backend`` runs on; None for any."""
    return None if backend == "auto" else backends[backend].device


def blank_rows(backend: str, backends: Mapping[str, Backend]) -> int:
    """Blank rows that ``backend`` needs before each start inside of a row."""
    return 0 if backend == "auto" else backends[backend].blank_rows


def choose(backend: str, backends: Mapping[str, Backend], x: Tensor) -> Backend:
    """The implementation for ``x``; a specialised one before plain PyTorch's.

    Where there are no rows it is the specification, so that no other has to care.

    Args:
        backend: a name that :func:`check_backend` has passed.
        backends: implementations by name, with ones called ``"naive"`` and ``"torch"``.
        x: an input of the operation, ``[R, ...]``.

    Raises:
        ValueError: if the implementation does not run on the device of ``x``.
    """
    chosen = backends["torch" if backend == "auto" else backend]
    if backend == "auto":
        for candidate in backends.values():
            if candidate.suits(x):
                chosen = candidate
                break
    if chosen.device not in (None, x.device.type):
        raise ValueError(
            f"Backend {backend!r} expected tensors on {chosen.device}, got "
            f"{x.device}. Move them, or use backend 'auto'."
        )
    return chosen if x.shape[0] else backends["naive"]


def pick(backend: str, backends: Mapping[str, Backend], x: Tensor) -> Callable:
    """The function of the implementation that :func:`choose` returns."""
    return load(choose(backend, backends, x))
