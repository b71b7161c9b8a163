"""Packages of the extra `plot`, imported when they are first used."""

from __future__ import annotations

import importlib
from typing import Any


class ExtraModule:
    """A module of an optional package; its names import it.

    Args:
        name: The module, such as `pandas`.

    Raises:
        ModuleNotFoundError: At the first use, if it is not installed.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        try:
            module = importlib.import_module(self._name)
        except ModuleNotFoundError:
            package = self._name.partition(".")[0]
            raise ModuleNotFoundError(
                f"tables and figures of results need the package {package!r}, which is "
                'not installed: pip install "resel_torchrl[plot]"',
                name=package,
            ) from None
        return getattr(module, attribute)


pandas = ExtraModule("pandas")
figure = ExtraModule("matplotlib.figure")
ticker = ExtraModule("matplotlib.ticker")
