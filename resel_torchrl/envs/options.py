"""Checks of the whole numbers that environments are made and reset with."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

__all__ = ["episode_value", "whole_number"]


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
