"""Uniformly random actions at the start of an episode, as many as its seed says."""

from __future__ import annotations

import sys

import numpy as np

from resel_torchrl.training.acting import RecurrentPolicy

__all__ = ["RandomStart"]


class RandomStart:
    """How many actions of an episode are random, and the generator that draws them.

    Random starts show what follows where the policy no longer goes by itself; for Atari
    they were 30 idle steps at most (Mnih et al. 2015, extended data table 1).

    Args:
        seed: Seed of the episode.
        most: The number of random steps is uniform over 0, …, `most`.
        whole: Whether all steps are random in place of that.

    Attributes:
        steps: Steps, from the first, that take a random action.
        whole: Whether these are all.

    >>> start = RandomStart(seed=0, most=9)
    >>> start.steps, start.whole, RandomStart(seed=0, most=0).steps
    (5, False, 0)
    """

    def __init__(self, seed: int, most: int = 0, *, whole: bool = False) -> None:
        self.whole = whole
        # Not the stream from which the environment draws, at its reset, with this seed.
        stream = seed if whole else [seed, 1]
        self._generator = np.random.default_rng(stream) if whole or most else None
        if whole:
            self.steps = sys.maxsize
        else:
            self.steps = int(self._generator.integers(most + 1)) if most else 0

    def action(self, policy: RecurrentPolicy) -> np.ndarray:
        """The next random action, `[action_size]`."""
        return policy.random_action(self._generator)

    def skip(self, policy: RecurrentPolicy, steps: int) -> None:
        """Draws what an episode of so many steps has drawn."""
        for _ in range(min(steps, self.steps)):
            self.action(policy)
