"""Acting on another device than learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from resel_torchrl.training.transfer import states_on_cpu

__all__ = ["PolicyCopy"]


class PolicyCopy:
    """A copy of the acting modules on another device, refreshed every few updates.

    Args:
        sources: Modules that learn.
        copies: Modules that act, in the same order.
        every: Updates between two refreshes.

    >>> import torch
    >>> source, copy = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> acting = PolicyCopy([source], [copy], every=2)
    >>> _ = source.weight.data.add_(1.0)
    >>> acting.updated()
    >>> acting.age, torch.equal(source.weight, copy.weight)
    (1, False)
    >>> acting.updated()
    >>> acting.age, torch.equal(source.weight, copy.weight)
    (0, True)
    """

    def __init__(
        self, sources: Sequence[nn.Module], copies: Sequence[nn.Module], every: int
    ) -> None:
        self.pairs = list(zip(sources, copies, strict=True))
        self.every = every
        self.age = 0
        self._copy()

    def _copy(self) -> None:
        states = states_on_cpu([source for source, _ in self.pairs])
        for (_, copy), state in zip(self.pairs, states, strict=True):
            copy.load_state_dict(state)
        self.age = 0

    def updated(self) -> None:
        """Counts an update of the sources."""
        self.age += 1
        if self.age >= self.every:
            self._copy()

    def state_dict(self) -> dict[str, Any]:
        """The copies, which may be older than their sources, and their age."""
        return {
            "age": self.age,
            "copies": [dict(c.state_dict()) for _, c in self.pairs],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the copies and their age back."""
        self.age = state["age"]
        for (_, copy), stored in zip(self.pairs, state["copies"], strict=True):
            copy.load_state_dict(stored)
