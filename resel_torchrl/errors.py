"""Exceptions of this package that a program may catch."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "DamagedCheckpointError",
    "HorizonExceededError",
    "NonFiniteLossError",
    "RunError",
]


class ConfigError(ValueError):
    """A configuration that cannot be run; `problems` holds each mistake.

    >>> raise ConfigError(["steps: expected a number above 0, got -1."])
    Traceback (most recent call last):
    ...
    resel_torchrl.errors.ConfigError: 1 mistake in the configuration:
      1. steps: expected a number above 0, got -1.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        lines = [f"  {i}. {problem}" for i, problem in enumerate(self.problems, 1)]
        word = "mistake" if count == 1 else "mistakes"
        super().__init__(
            "\n".join([f"{count} {word} in the configuration:", *lines]),
        )


class RunError(RuntimeError):
    """A run that cannot start or go on; the message says what to do."""


class DamagedCheckpointError(RunError):
    """A checkpoint whose files are not what they were when written.

    Args:
        fault: What is wrong with it.
        cure: What to do about it.

    >>> raise DamagedCheckpointError("a.pt is cut short.", "Put it back from a copy.")
    Traceback (most recent call last):
    ...
    resel_torchrl.errors.DamagedCheckpointError: a.pt is cut short. Put it back from \
a copy.
    """

    def __init__(self, fault: str, cure: str) -> None:
        super().__init__(f"{fault} {cure}")
        self.fault = fault


class HorizonExceededError(RuntimeError):
    """An episode that goes on past its horizon, the largest number of its steps."""


class NonFiniteLossError(FloatingPointError):
    """A loss, gradient or parameter of the learner that is NaN or infinite.

    On a CPU it is raised before the step that would spoil the parameters.
    """
