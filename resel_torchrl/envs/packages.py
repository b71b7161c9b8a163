"""Imports of the simulators, which are optional, when a task needs them."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["import_simulator"]


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
