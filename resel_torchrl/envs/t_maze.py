"""T-Maze: a sign at the start of a long corridor says which way to turn at its end.

``TMaze-Passive-v0`` shows the sign at the start (corridor of 50), ``TMaze-Active-v0``
one step to the left of it (corridor of 20), where the agent must go to see it. The
clock of the task ends an episode, as a terminal.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete

from resel_torchrl.envs._support import Reset, Step, episode_value, whole_number

__all__ = ["TASKS", "TMaze"]

#: (x, y) of the actions east, up, west, down.
_MOVES = ((1, 0), (0, 1), (-1, 0), (0, -1))


class TMaze(gymnasium.Env):
    """A corridor that ends in two arms, one of which holds the goal.

    Cells are numbered from the one with the sign: it lies at x = 0, the start is there
    too (passive) or at x = 1 (active), and the junction ``length`` steps east of the
    start; from it the arms lead to y = 1 and y = -1. A move into a wall leaves the
    agent where it is. The observation is ``[0, goal]`` on the first visit of the sign,
    ``[0, 0]`` everywhere else in the corridor and ``[1, y]`` at the junction and in the
    arms. The reward is 1 at the last step in the arm of the goal, and ``-1 / length``
    at every step but the last after which the agent is behind the one that fetches the
    sign and walks east without a pause: ``x < t`` (passive), ``x < t - 1`` (active)
    after step t. So the best return is 1.

    Args:
        length: of the corridor. An episode has ``length + 1`` steps (passive) or
            ``length + 3`` (active), the fewest that can reach the goal's arm by way
            of the sign. ``reset(options={"length": n})`` makes the corridor of one
            episode shorter.
        active: does the sign lie one step west of the start?
        continuous: are actions four numbers in [-1, 1] of which the largest says the
            move, and not the number of the move (0 to 3: east, up, west, down)?

    Attributes:
        horizon: number of steps of an episode of the whole ``length``.
        measures: ``("success",)``, 1 if the agent is in the goal's arm at the end.
        curriculum_options: ``("length",)``.

    Raises:
        ValueError: if ``length`` is no whole number of 1 or more, or another argument
            no bool; from ``reset``, if the option is not between 1 and ``length``; from
            ``step``, if there is no such action.

    Examples:
        >>> env = TMaze(length=2, active=False)
        >>> observation, info = env.reset(seed=0)
        >>> observation, info["task"]
        (array([0., 1.], dtype=float32), {'goal': 1.0})
        >>> steps = [env.step(action) for action in (0, 0, 1)]
        >>> steps[-1][0], [reward for _, reward, *_ in steps], steps[-1][-1]["measures"]
        (array([1., 1.], dtype=float32), [0.0, 0.0, 1.0], {'success': 1.0})
    """

    measures = ("success",)
    curriculum_options = ("length",)

    def __init__(self, length: int, *, active: bool, continuous: bool = False):
        self.length = whole_number("length", length)
        for name, value in (("active", active), ("continuous", continuous)):
            if not isinstance(value, bool):
                raise ValueError(f"expected {name} to be true or false, got {value!r}")
        self._sign_distance = int(active)
        self._continuous = continuous
        self.observation_space = Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = (
            Box(-1.0, 1.0, (4,), np.float32) if continuous else Discrete(4)
        )

    @property
    def horizon(self) -> int:
        """Number of steps of an episode of the whole length."""
        return self._steps_of(self.length)

    def _steps_of(self, length: int) -> int:
        return length + 2 * self._sign_distance + 1

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        """Starts an episode, see :meth:`gymnasium.Env.reset`."""
        super().reset(seed=seed)
        length = episode_value(options, "length", self.length)
        self._last_step = self._steps_of(length)
        self._junction = self._sign_distance + length
        self._penalty = -1.0 / length
        self._goal = 2 * int(self.np_random.integers(2)) - 1
        self._x, self._y, self._steps = self._sign_distance, 0, 0
        self._sign_seen = False
        return self._observation(), self._info()

    def step(self, action: int | np.ndarray) -> Step:
        """Makes one step, see :meth:`gymnasium.Env.step`."""
        self._steps += 1
        dx, dy = _MOVES[self._move(action)]
        if self._y == 0 and dy == 0:
            self._x = min(max(self._x + dx, 0), self._junction)
        elif self._x == self._junction and dx == 0:
            self._y = min(max(self._y + dy, -1), 1)
        ends = self._steps == self._last_step
        info = self._info()
        if ends:
            reward = float(self._y == self._goal)
            info["measures"] = {"success": reward}
        else:
            late = self._x < self._steps - self._sign_distance
            reward = self._penalty if late else 0.0
        return self._observation(), reward, ends, False, info

    def _move(self, action: int | np.ndarray) -> int:
        if self._continuous:
            if np.shape(action) != (4,):
                raise ValueError(
                    f"expected an action of shape (4,), got one of {np.shape(action)}"
                )
            return int(np.argmax(action))
        if not 0 <= action < 4:
            raise ValueError(f"expected an action from 0 to 3, got {action}")
        return int(action)

    def _observation(self) -> np.ndarray:
        if self._x == self._junction:
            return np.array([1, self._y], np.float32)
        first_visit = self._x == 0 and not self._sign_seen
        self._sign_seen |= first_visit
        return np.array([0, self._goal if first_visit else 0], np.float32)

    def _info(self) -> dict[str, Any]:
        return {"task": {"goal": float(self._goal)}}


TASKS = [
    EnvSpec(f"TMaze-{name}-v0", f"{__name__}:TMaze", kwargs=kwargs)
    for name, kwargs in (
        ("Passive", {"length": 50, "active": False}),
        ("Active", {"length": 20, "active": True}),
    )
]
