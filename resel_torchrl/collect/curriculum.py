"""A task that grows while it is learnt."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from resel_torchrl.collect.episode import EpisodeResult

__all__ = ["Curriculum"]


class Curriculum:
    """Values of an option of the environment's `reset`, one after another.

    Every training episode keeps the value of the stage that it begins in. The next
    stage begins either at given environment steps, or once the mean of a measure over
    the stage's last episodes reaches a level; those of the random phase count too.

    Args:
        option: Name of the option, such as `"frames"`.
        values: Its values, each in use for a stage.
        at_steps: Environment steps at which the second value and the further ones
            begin; None goes by the measure.
        measure: The measure, where `at_steps` is None.
        level: Mean of the measure that ends a stage.
        window: Episodes of the stage that the mean is over.

    Raises:
        ValueError: If there is no value, or the steps are not one fewer, above 0 and
            ascending, or the window is below 1, or the level is not finite or, of
            `"success"`, not from 0 to 1.

    >>> grow = Curriculum("length", [5, 20, 50], at_steps=[1000, 3000])
    >>> [grow.begin_episode(steps) for steps in (0, 1000, 999_999)]
    [{'length': 5}, {'length': 20}, {'length': 50}]
    >>> grow = Curriculum("length", [5, 20], measure="success", level=0.9, window=2)
    >>> for _ in range(2):
    ...     options = grow.begin_episode(0)
    ...     grow.end_episode(EpisodeResult(1.0, 6, {"success": 1.0}))
    >>> options, grow.begin_episode(0)
    ({'length': 5}, {'length': 20})
    """

    def __init__(
        self,
        option: str,
        values: Sequence[float],
        *,
        at_steps: Sequence[int] | None = None,
        measure: str = "success",
        level: float = 0.8,
        window: int = 50,
    ) -> None:
        problems = schedule_problems(values, at_steps)
        if window < 1:
            problems.append(f"window: expected 1 episode or more, got {window}")
        if at_steps is None:
            problems += level_problems(measure, level)
        if problems:
            raise ValueError("; ".join(problems) + ".")
        self.option = option
        self.values = list(values)
        self.at_steps = None if at_steps is None else list(at_steps)
        self.measure = measure
        self.level = level
        self.window = window
        self.stage = 0
        self._last: deque[float] = deque(maxlen=window)

    @property
    def name(self) -> str:
        """Name of the option in the log and among an episode's measures."""
        return f"curriculum_{self.option}"

    @property
    def value(self) -> float:
        """The value of the present stage."""
        return self.values[self.stage]

    def begin_episode(self, steps: int) -> dict[str, float]:
        """The options of the `reset` that begins an episode.

        Args:
            steps: Environment steps of the run so far.
        """
        if self.at_steps is not None:
            self.stage = sum(steps >= begin for begin in self.at_steps)
        return {self.option: self.value}

    def end_episode(self, result: EpisodeResult) -> None:
        """Records a finished episode; one of an earlier stage does not count.

        Args:
            result: Its measures may name the value that it began with by :attr:`name`;
                without, it is one of the present stage.

        Raises:
            KeyError: If the environment did not measure it.
        """
        if self.at_steps is not None:
            return
        measures = dict(result.measures)
        began_with = measures.pop(self.name, self.value)
        if self.measure not in measures:
            raise KeyError(
                f"expected an environment that measures {self.measure!r}, got one "
                f"that measures {', '.join(measures) or 'nothing'}; choose another "
                "measure, or a schedule by steps."
            )
        if began_with != self.value:
            return
        self._last.append(measures[self.measure])
        reached = len(self._last) == self.window and (
            sum(self._last) >= self.level * self.window
        )
        if reached and self.stage + 1 < len(self.values):
            self.stage += 1
            self._last.clear()

    def state_dict(self) -> dict[str, Any]:
        """The stage and the last episodes' measures."""
        return {"stage": self.stage, "last": list(self._last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict`."""
        self.stage = state["stage"]
        self._last = deque(state["last"], maxlen=self.window)


def level_problems(measure: str, level: float) -> list[str]:
    """What is wrong with a level, in sentences without a full stop."""
    if not math.isfinite(level):
        return [f"level: expected a finite number, got {level}"]
    if measure == "success" and not 0 <= level <= 1:
        return [
            "level: expected a share of episodes with success, from 0 to 1, "
            f"got {level}"
        ]
    return []


def schedule_problems(
    values: Sequence[float], at_steps: Sequence[int] | None
) -> list[str]:
    """What is wrong with a schedule, in sentences without a full stop."""
    problems = []
    if not values:
        problems.append("values: expected one value or more, got none")
    if any(value <= 0 for value in values):
        problems.append(f"values: expected numbers above 0, got {list(values)}")
    if at_steps is None:
        return problems
    steps = list(at_steps)
    if any(b <= a for a, b in zip([0, *steps], steps, strict=False)):
        problems.append(f"at_steps: expected ascending steps above 0, got {steps}")
    if len(steps) != len(values) - 1:
        problems.append(
            f"at_steps: expected one fewer than the {len(values)} values, for the "
            f"first begins at step 0, got {len(steps)}"
        )
    return problems
