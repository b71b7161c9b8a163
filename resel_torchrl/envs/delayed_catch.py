"""Delayed-Catch: fruit after fruit falls, and only the end tells how many were caught.

``DelayedCatch-v0``, with 10 runs of one fruit each unless ``runs`` says otherwise. The
clock of the task ends an episode, as a terminal.
"""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete

from resel_torchrl.envs._support import Reset, Step, episode_value, whole_number

__all__ = ["TASKS", "DelayedCatch"]

_GRID = 7  # rows and columns
_MOST_RUNS = 40
#: First and last column in which a run begins, of the fruit and of the basket.
_FRUIT_COLUMNS, _BASKET_COLUMNS = (0, 5), (1, 4)


class DelayedCatch(gymnasium.Env):
    """A basket under falling fruit, paid once.

    The fruit of a run begins in the top row and falls by a row with each of 6 steps, in
    which actions 0 to 2 move the basket left, not at all, or right; the edges stop it.
    The fruit is caught if it is in the basket's column in the bottom row. One more
    step, whatever its action, begins the next run with fruit and basket in random
    columns. The observation is the 7 x 7 grid, row by row: -1 at the fruit, 1 at the
    basket, which hides a caught fruit, and 0 elsewhere. The reward is the number of
    fruits caught, at the last step, and 0 before.

    Args:
        runs: number of fruits, 1 to 40. An episode has ``7 * runs - 1`` steps.
            ``reset(options={"runs": n})`` makes them fewer for one episode.

    Attributes:
        horizon: number of steps of an episode with all ``runs``.
        measures: ``("caught",)``, the share of the fruits that were caught.
        curriculum_options: ``("runs",)``.

    Raises:
        ValueError: if ``runs`` is no whole number from 1 to 40; from ``reset``, if the
            option is not between 1 and ``runs``; from ``step``, if there is no such
            action.

    Examples:
        >>> env = DelayedCatch(runs=2)
        >>> observation, _ = env.reset(seed=0)
        >>> env.horizon, observation.reshape(7, 7)[[0, 6]].astype(int)
        (13, array([[ 0,  0,  0,  0,  0, -1,  0],
               [ 0,  0,  0,  1,  0,  0,  0]]))
    """

    measures = ("caught",)
    curriculum_options = ("runs",)

    def __init__(self, runs: int = 10):
        self.runs = whole_number("runs", runs, _MOST_RUNS)
        self.observation_space = Box(-1.0, 1.0, (_GRID * _GRID,), np.float32)
        self.action_space = Discrete(3)

    @property
    def horizon(self) -> int:
        """Number of steps of an episode with all runs."""
        return _GRID * self.runs - 1

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        """Starts an episode, see :meth:`gymnasium.Env.reset`."""
        super().reset(seed=seed)
        self._runs = episode_value(options, "runs", self.runs)
        self._steps = self._caught = 0
        self._begin_run()
        return self._observation(), {}

    def step(self, action: int) -> Step:
        """Makes one step, see :meth:`gymnasium.Env.step`."""
        if not 0 <= action < 3:
            raise ValueError(f"expected an action from 0 to 2, got {action}")
        self._steps += 1
        if self._row == _GRID - 1:
            self._begin_run()
        else:
            self._basket = min(max(self._basket + int(action) - 1, 0), _GRID - 1)
            self._row += 1
            at_bottom = self._row == _GRID - 1
            self._caught += at_bottom and self._fruit == self._basket
        if self._steps < _GRID * self._runs - 1:
            return self._observation(), 0.0, False, False, {}
        info = {"measures": {"caught": self._caught / self._runs}}
        return self._observation(), float(self._caught), True, False, info

    def _begin_run(self) -> None:
        self._row = 0
        self._fruit, self._basket = (
            int(self.np_random.integers(first, last, endpoint=True))
            for first, last in (_FRUIT_COLUMNS, _BASKET_COLUMNS)
        )

    def _observation(self) -> np.ndarray:
        grid = np.zeros(_GRID * _GRID, np.float32)
        grid[_GRID * self._row + self._fruit] = -1
        grid[_GRID * (_GRID - 1) + self._basket] = 1
        return grid


TASKS = [EnvSpec("DelayedCatch-v0", f"{__name__}:DelayedCatch", kwargs={"runs": 10})]
