"""`NAME=VALUE` arguments of the commands that Hydra does not read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from resel_torchrl._nearest import suggestion
from resel_torchrl.errors import ConfigError

__all__ = ["at_least", "read_arguments"]


def read_arguments(
    arguments: Sequence[str], known: dict[str, Callable[[str], object]]
) -> dict[str, object]:
    """Reads `NAME=VALUE` arguments.

    Args:
        arguments: What was typed.
        known: Name to what turns its text into a value, or raises a ValueError.

    Raises:
        ConfigError: Listing every argument that is unknown or of the wrong form.

    >>> known = {"run": str, "episodes": at_least(1)}
    >>> read_arguments(["run=runs/a", "episodes=3"], known)
    {'run': 'runs/a', 'episodes': 3}
    """
    values, problems = {}, []
    for text in arguments:
        name, _, value = text.partition("=")
        if name not in known or not value:
            problems.append(f"{text}: expected NAME=VALUE. {suggestion(name, known)}")
            continue
        try:
            values[name] = known[name](value)
        except ValueError as error:
            problems.append(f"{name}: {error}; write {name}=VALUE.")
    if problems:
        raise ConfigError(problems)
    return values


def at_least(minimum: int) -> Callable[[str], int]:
    """A reader of whole numbers for :func:`read_arguments`.

    >>> at_least(1)("20")
    20
    >>> at_least(1)("0")
    Traceback (most recent call last):
    ...
    ValueError: expected a whole number of 1 or more, got '0'
    """

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < minimum:
            raise ValueError(
                f"expected a whole number of {minimum} or more, got {text!r}"
            )
        return value

    return read
