"""How many updates are due after each environment step."""

from __future__ import annotations

from fractions import Fraction

__all__ = ["UpdateSchedule"]


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
