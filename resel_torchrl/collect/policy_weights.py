"""Weights to act on that are not the learner's own: on a CPU, in another process."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PolicyCopy", "SharedWeights", "WeightReader"]


class PolicyCopy:
    """A copy of the acting modules on the CPU, refreshed every few updates.

    Args:
        sources: Modules that learn.
        copies: Modules that act, in the same order.
        every: Updates between two refreshes.

    Attributes:
        age: Updates since the last refresh.

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
        self.sources = list(sources)
        self.copies = list(copies)
        self.every = every
        self._refresh()

    def _refresh(self) -> None:
        states = _states_on_cpu(self.sources)
        for module, state in zip(self.copies, states, strict=True):
            module.load_state_dict(state)
        self.age = 0

    def updated(self) -> None:
        """Counts an update of the sources."""
        self.age += 1
        if self.age >= self.every:
            self._refresh()

    def state_dict(self) -> dict[str, Any]:
        """The copies, which may be older than their sources, and their age."""
        return {
            "age": self.age,
            "copies": [dict(module.state_dict()) for module in self.copies],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the copies and their age back."""
        self.age = state["age"]
        for module, stored in zip(self.copies, state["copies"], strict=True):
            module.load_state_dict(stored)


# Places in the shared numbers: a count that is odd while weights are being written,
# the update they are of, the updates made.
VERSION, PUBLISHED, UPDATES = range(3)


class SharedWeights:
    """Copies on the CPU, in shared memory, of modules that learn in this process.

    Publishing copies the weights where the readers see them; nothing is pickled.
    A reader (:meth:`reader`) never acts on weights that are more than `every` updates
    old, nor on weights of which it saw one half before and one after a publication: a
    version counter tells.

    Args:
        sources: Modules that learn, on any device.
        every: Updates between two publications.

    Attributes:
        copies: The modules in shared memory.
        age: Updates between the weights behind the last counted step and that step;
            the collector writes it.

    >>> source = nn.Linear(1, 1)
    >>> weights = SharedWeights([source], every=2)
    >>> reader = weights.reader()
    >>> _ = source.weight.data.add_(1.0)
    >>> weights.updated()
    >>> reader.load(), torch.equal(source.weight, reader.modules[0].weight)
    (1, False)
    >>> weights.updated()
    >>> reader.load(), torch.equal(source.weight, reader.modules[0].weight)
    (0, True)
    """

    def __init__(self, sources: Sequence[nn.Module], every: int) -> None:
        self.sources = list(sources)
        self.copies = [
            copy.deepcopy(source).to("cpu").requires_grad_(False).share_memory()
            for source in self.sources
        ]
        self.every = every
        self.age = 0
        self._numbers = torch.zeros(3, dtype=torch.int64).share_memory_()

    def reader(self) -> WeightReader:
        """What the collecting process reads with; it can be sent to a new process."""
        return WeightReader(self.copies, self._numbers)

    def updated(self) -> None:
        """Counts an update of the sources, and publishes them if it is time."""
        self._numbers[UPDATES] += 1
        if self._numbers[UPDATES] - self._numbers[PUBLISHED] >= self.every:
            self.publish()

    def publish(self) -> None:
        """Copies the weights as they are now to where readers see them."""
        states = _states_on_cpu(self.sources)  # may wait, and readers need not
        self._numbers[VERSION] += 1
        for shared, state in zip(self.copies, states, strict=True):
            shared.load_state_dict(state)
        self._numbers[PUBLISHED] = self._numbers[UPDATES]
        self._numbers[VERSION] += 1

    def state_dict(self) -> dict[str, Any]:
        """The age; the copies are made anew on resume."""
        return {"age": self.age}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the age back and publishes the sources, which are loaded before."""
        self.age = state["age"]
        self.publish()


class WeightReader:
    """Modules of the collecting process, and the shared weights they are loaded from.

    Args:
        shared: Modules in shared memory.
        numbers: The counters beside them.

    Attributes:
        modules: Private copies to act with.
    """

    def __init__(self, shared: Sequence[nn.Module], numbers: Tensor) -> None:
        self.modules = [copy.deepcopy(module) for module in shared]
        self._shared = list(shared)
        self._numbers = numbers
        self._held = 0  # version; 0 is the one that the copies were made of

    @torch.no_grad()
    def load(self) -> int:
        """Brings the private modules up to date.

        Returns:
            Updates made since these weights were published, at most `every`.

        Raises:
            TimeoutError: If no whole version can be read: the learner stopped in the
                middle of writing.
        """
        for _ in range(100_000):
            version = int(self._numbers[VERSION])
            if version % 2 == 0:
                if version != self._held:
                    for shared, module in zip(self._shared, self.modules, strict=True):
                        module.load_state_dict(shared.state_dict())
                age = int(self._numbers[UPDATES] - self._numbers[PUBLISHED])
                # Only if nothing was published meanwhile do weights and age belong
                # together; otherwise what was copied is copied again.
                if int(self._numbers[VERSION]) == version:
                    self._held = version
                    return age
            time.sleep(1e-4)
        raise TimeoutError(
            "expected weights from the learner, got none whole within 10 seconds; "
            "the learning process has died or was halted: end this one too."
        )


@torch.no_grad()
def _states_on_cpu(modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
    """State dictionaries on the CPU; from a GPU by one wait, not one per tensor."""
    states = [module.state_dict() for module in modules]
    devices = set()
    for state in states:
        for name, value in state.items():
            if isinstance(value, Tensor) and value.device.type == "cuda":
                devices.add(value.device)
                host = torch.empty_like(value, device="cpu", pin_memory=True)
                state[name] = host.copy_(value, non_blocking=True)
    for device in devices:
        torch.cuda.current_stream(device).synchronize()
    return states
