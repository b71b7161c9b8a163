"""What is due after each environment step: updates, and at which learning rates."""

from __future__ import annotations

from fractions import Fraction

__all__ = [
    "LearningRateDecay",
    "UpdateSchedule",
]


class UpdateSchedule:
    """How many updates are due, kept exactly by whole numbers.

    Args:
        updates_per_step: Updates per environment step, below or above 1.

    >>> schedule = UpdateSchedule(0.3)
    >>> [schedule.due() for _ in range(10)]
    [0, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    """

    def __init__(self, updates_per_step: float) -> None:
        ratio = Fraction(str(updates_per_step)).limit_denominator(1_000_000)
        if ratio <= 0:
            raise ValueError(
                f"expected updates_per_step above 0, got {updates_per_step}; "
                "give the number of updates per environment step, for example 1."
            )
        self.ratio = ratio
        self.steps = 0

    def due(self, steps: int = 1) -> int:
        """Counts environment steps and returns the updates due after them.

        Args:
            steps: Number of steps since the last call.

        >>> UpdateSchedule(0.3).due(10)
        3
        """
        before = self.steps * self.ratio.numerator // self.ratio.denominator
        self.steps += steps
        after = self.steps * self.ratio.numerator // self.ratio.denominator
        return after - before


class LearningRateDecay:
    """Learning rates that fall linearly between two environment steps.

    Args:
        start: Step up to which the rates are the ones that were given.
        end: Step from which on they are `to` times that.
        to: Share that is left at the end, from 0 to 1.

    Raises:
        ValueError: If `start` is negative or not before `end`, or `to` not in [0, 1].

    >>> decay = LearningRateDecay(100, 200, to=0.1)
    >>> [round(decay.share(step), 2) for step in (0, 100, 150, 200, 300)]
    [1.0, 1.0, 0.55, 0.1, 0.1]
    """

    def __init__(self, start: int, end: int, *, to: float = 0.0) -> None:
        if not 0 <= start < end:
            raise ValueError(
                "expected a first step of 0 or more and a later last one, got "
                f"[{start}, {end}]"
            )
        if not 0 <= to <= 1:
            raise ValueError(f"expected to leave a share from 0 to 1, got {to}")
        self.start, self.end, self.to = start, end, to

    def share(self, step: int) -> float:
        """What is left of the rates at an environment step, 1 for all of them."""
        done = (step - self.start) / (self.end - self.start)
        return 1.0 - min(max(done, 0.0), 1.0) * (1.0 - self.to)
