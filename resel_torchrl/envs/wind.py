"""A point robot in a wind that it does not feel."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from resel_torchrl.envs.task_set import Split, TaskSet

__all__ = ["Wind"]

GOAL = (0.0, 1.0)
GOAL_RADIUS = 0.03
STRONGEST = 0.08


class Wind(gymnasium.Env):
    """A point that goes from (0, 0) to (0, 1) while a hidden wind moves it, too.

    Each step adds the action, each coordinate of it clipped to [-0.1, 0.1], and the
    wind to the position, which is the observation. The reward is 1 where the point is
    then within ``radius`` of (0, 1), else 0. The wind is that of the task, drawn from
    [-0.08, 0.08]² and the same in all of an episode. An episode has no end of its own:
    see :class:`resel_torchrl.envs.meta_rl.Trial`.

    Random moves hardly ever come so near. ``reset(options={"radius": r})`` makes the
    goal of one episode larger, which a curriculum may use.

    Args:
        radius: of the goal.
        split: which tasks are played.
        n_train: number of tasks to train on.
        n_test: number of tasks to test on.
        task_seed: seed from which both are drawn.
        train_tasks: winds ``[x, y]`` to train on, in place of drawn ones.
        test_tasks: likewise to test on.

    Attributes:
        n_tasks: number of tasks in the split.
        facts: the set of tasks, in plain data.
        curriculum_options: ``("radius",)``.

    Raises:
        ValueError: if a radius is no finite number above 0; and as
            :class:`resel_torchrl.envs.task_set.TaskSet`.

    Examples:
        >>> env = Wind(train_tasks=[[0.05, 0.0]])
        >>> observation, info = env.reset(seed=0)
        >>> observation, info["task"]
        (array([0., 0.], dtype=float32), {'wind_x': 0.05, 'wind_y': 0.0})
        >>> env.step(np.float32([0.0, 0.1]))[0]
        array([0.05, 0.1 ], dtype=float32)
    """

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-0.1, 0.1, (2,), np.float32)

    curriculum_options = ("radius",)

    def __init__(
        self,
        *,
        radius: float = GOAL_RADIUS,
        split: Split = "train",
        n_train: int = 40,
        n_test: int = 20,
        task_seed: int = 0,
        train_tasks: Sequence[Sequence[float]] | None = None,
        test_tasks: Sequence[Sequence[float]] | None = None,
    ) -> None:
        self._tasks = TaskSet.make(
            lambda generator: generator.uniform(-STRONGEST, STRONGEST, 2),
            split=split,
            n_train=n_train,
            n_test=n_test,
            task_seed=task_seed,
            train_tasks=train_tasks,
            test_tasks=test_tasks,
        )
        self.n_tasks = len(self._tasks.tasks)
        self.facts = self._tasks.facts()
        self.radius = self._radius = _checked_radius(radius)
        self._wind = np.zeros(2)
        self._position = np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Takes a task, that of number ``options["task"]`` or a random one."""
        super().reset(seed=seed)
        self._radius = _checked_radius((options or {}).get("radius", self.radius))
        self._wind = np.array(self._tasks.choose(self.np_random, options))
        return self.restart(), self._info()

    def restart(self) -> np.ndarray:
        """Puts the point back to (0, 0) in the same wind."""
        self._position = np.zeros(2)
        return self._position.astype(np.float32)

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves the point, see :meth:`gymnasium.Env.step`."""
        action = np.asarray(action, np.float64)
        self._position = self._position + np.clip(action, -0.1, 0.1) + self._wind
        distance = np.hypot(*(self._position - GOAL))
        reward = float(distance <= self._radius)
        observation = self._position.astype(np.float32)
        return observation, reward, False, False, self._info()

    def _info(self) -> dict[str, Any]:
        wind_x, wind_y = self._wind.tolist()
        return {"task": {"wind_x": wind_x, "wind_y": wind_y}}


def _checked_radius(radius: Any) -> float:
    number = isinstance(radius, numbers.Real) and not isinstance(radius, bool)
    if not number or not 0 < radius < np.inf:
        raise ValueError(f"expected radius to be a number above 0, got {radius!r}")
    return float(radius)
