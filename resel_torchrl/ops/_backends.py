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
        blank_rows: blank steps that it needs before each start inside of a row.
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


class Backends(dict[str, Backend]):
    """The implementations of an operation by name.

    ``"auto"`` is the first one that suits the inputs, else ``"torch"``. That and
    ``"naive"``, the specification, are always there.
    """

    def __init__(self, operation: str, backends: Mapping[str, Backend]) -> None:
        super().__init__(backends)
        self.operation = operation

    def check(self, name: str) -> str:
        """Return ``name`` if it can be used here.

        Raises:
            ValueError: if there is no such backend; the message lists those that are.
            ModuleNotFoundError: if it needs a package that is not installed; the
                message says how to get it.
        """
        names = ["auto", *self]
        if name not in names:
            raise ValueError(
                f"Unknown {self.operation} backend {name!r}: expected one of {names}."
                + did_you_mean(name, names)
            )
        if name != "auto" and not self[name].is_installed():
            missing = self[name]
            raise ModuleNotFoundError(
                f"{self.operation} backend {name!r} expected the package "
                f"{missing.package}, got none. Install it with: pip install "
                f"'resel_torchrl[{missing.extra}]'{missing.pip_options}, "
                "or leave backend at 'auto', which takes the fastest that is there."
            )
        return name

    def choose(self, name: str, x: Tensor) -> Backend:
        """Return the backend ``name`` for an input ``x [R, ...]``.

        Where there are no rows it is the specification, so that no other has to care.

        Raises:
            ValueError: if the name is unknown or it does not run on x's device.
            ModuleNotFoundError: if it needs a package that is not installed.
        """
        chosen = self["torch" if self.check(name) == "auto" else name]
        if name == "auto":
            for candidate in self.values():
                if candidate.suits(x):
                    chosen = candidate
                    break
        if chosen.device not in (None, x.device.type):
            raise ValueError(
                f"Backend {name!r} expected tensors on {chosen.device}, got "
                f"{x.device}. Move them, or use backend 'auto'."
            )
        return chosen if x.shape[0] else self["naive"]

    def device_type(self, name: str) -> str | None:
        """Return the only type of device that ``name`` runs on; None for any."""
        return None if name == "auto" else self[name].device

    def blank_rows(self, name: str) -> int:
        """Return the blank steps that ``name`` needs before a start inside of a row."""
        return 0 if name == "auto" else self[name].blank_rows

    def load_all(self, device: str) -> None:
        """Import what may run on a type of device: compiled code cannot import."""
        for backend in self.values():
            if backend.device in (None, device) and backend.is_installed():
                load(backend)


def load(backend: Backend) -> Callable:
    """Import a backend's function, at the first call only."""
    key = backend.module, backend.function
    if key not in _LOADED:
        function = getattr(importlib.import_module(key[0]), key[1])
        _LOADED[key] = torch.compiler.disable(function) if backend.loops else function
    return _LOADED[key]


_LOADED: dict[tuple[str, str], Callable] = {}


@torch.compiler.assume_constant_result
def is_usable(package: str) -> bool:
    """Tell whether an optional package is installed and can be imported."""
    return _can_be_imported(package)


@functools.cache
def _can_be_imported(package: str) -> bool:
    if find_spec(package) is None:
        return False
    try:
        importlib.import_module(package)
    except ImportError as error:  # Numba is strict about the versions of NumPy
        torchrl_logger.warning(f"{package} is installed but not usable: {error}")
        return False
    return True
