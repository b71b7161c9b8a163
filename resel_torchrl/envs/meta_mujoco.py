"""MuJoCo robots that are paid by a hidden goal: Gymnasium's Ant-v5, HalfCheetah-v5.

The physics, initial states and costs are Gymnasium's; the goal, what is paid for it and
what is seen are those of the paper's meta-RL tasks (arXiv 2405.15384). Speeds are the
displacement of ``qpos`` in a step, over its 0.05 s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from resel_torchrl.envs.mujoco_pomdp import make_robot
from resel_torchrl.envs.task_set import Split, TaskSet

__all__ = ["AntDirection", "CheetahDirection", "CheetahVelocity"]

_DIRECTIONS = ((-1.0,), (1.0,))


class _HiddenGoal(gymnasium.Wrapper):
    """A robot with a goal that is drawn at ``reset`` and never seen.

    Attributes:
        factor: name of the goal in ``info["task"]``.
        facts: the set of goals, in plain data.
        n_tasks: number of goals, of which ``reset(options={"task": i})`` takes the
            i-th.
    """

    factor: str

    def __init__(self, env: gymnasium.Env, tasks: TaskSet) -> None:
        super().__init__(env)
        self._tasks = tasks
        self.facts = tasks.facts()
        self.n_tasks = len(tasks.tasks)
        self._goal = math.nan
        self._data = env.unwrapped.data
        self._dt = env.unwrapped.dt

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode with another goal, see :meth:`gymnasium.Env.reset`."""
        observation, info = self.env.reset(seed=seed)
        # After the state, so that the same seed gives the same start to every goal.
        (self._goal,) = self._tasks.choose(self.np_random, options)
        return self._observe(observation), {**info, "task": {self.factor: self._goal}}

    def restart(self) -> np.ndarray:
        """Puts the robot back to a random start; the goal stays."""
        return self._observe(self.env.reset()[0])

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Makes one step, see :meth:`gymnasium.Env.step`."""
        before = self._data.qpos[:2].copy()
        observation, _, terminated, truncated, info = self.env.step(action)
        velocity = (self._data.qpos[:2] - before) / self._dt
        reward = float(self._paid(velocity, info))
        info["task"] = {self.factor: self._goal}
        return self._observe(observation), reward, terminated, truncated, info

    def _observe(self, observation: np.ndarray) -> np.ndarray:
        return observation

    def _paid(self, velocity: np.ndarray, info: dict[str, Any]) -> float:
        """The reward; ``info`` has the costs, as negative numbers."""
        raise NotImplementedError


class AntDirection(_HiddenGoal):
    """An ant that is to walk into a hidden direction, of -1 or 1 radian.

    The reward is velocity · (cos, sin) of the direction - 0.5 |action|² - 5e-4 |contact
    forces, clipped to [-1, 1]|² + 1. The ant falls where the height of its torso leaves
    [0.2, 1.0] m. It sees ``qpos`` without x and y (13) and ``qvel`` (14).

    Args:
        **kwargs: passed to Gymnasium's environment, such as ``render_mode``.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
    """

    factor = "direction"

    def __init__(self, **kwargs: Any) -> None:
        options = {"ctrl_cost_weight": 0.5, "contact_cost_weight": 5e-4}
        options["include_cfrc_ext_in_observation"] = False
        env = make_robot("Ant", **{**options, **kwargs})
        super().__init__(env, TaskSet(_DIRECTIONS, (), "train"))

    def _paid(self, velocity: np.ndarray, info: dict[str, Any]) -> float:
        speed = velocity @ (math.cos(self._goal), math.sin(self._goal))
        return speed + info["reward_ctrl"] + info["reward_contact"] + 1


class _Cheetah(_HiddenGoal):
    """Sees ``qpos`` without x (8), ``qvel`` (9) and the torso's position (3).

    The last is MuJoCo's ``xpos``, as in the field's environments; after a step it is
    that of the last of the step's five substeps.
    """

    def __init__(self, tasks: TaskSet, **kwargs: Any) -> None:
        super().__init__(
            make_robot("HalfCheetah", **{"ctrl_cost_weight": 0.05, **kwargs}), tasks
        )
        size = self.env.observation_space.shape[0] + 3
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self._torso = self._data.body("torso").xpos  # a view

    def _observe(self, observation: np.ndarray) -> np.ndarray:
        return np.concatenate((observation, self._torso))


class CheetahDirection(_Cheetah):
    """A cheetah that is to run forward or backward, which is hidden.

    The reward is direction · speed - 0.05 |action|², the direction -1 or 1. It sees
    ``qpos`` without x (8), ``qvel`` (9) and the position of its torso (3).

    Args:
        **kwargs: passed to Gymnasium's environment, such as ``render_mode``.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
    """

    factor = "direction"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(TaskSet(_DIRECTIONS, (), "train"), **kwargs)

    def _paid(self, velocity: np.ndarray, info: dict[str, Any]) -> float:
        return self._goal * velocity[0] + info["reward_ctrl"]


class CheetahVelocity(_Cheetah):
    """A cheetah that is to run at a hidden speed, between 0 and 3 m/s.

    The reward is -|speed - target speed| - 0.05 |action|². It sees what
    :class:`CheetahDirection` sees.

    Args:
        split: which tasks are played.
        n_train: number of tasks to train on.
        n_test: number of tasks to test on.
        task_seed: seed from which both are drawn.
        train_tasks: speeds ``[v]`` to train on, in place of drawn ones.
        test_tasks: likewise to test on.
        **kwargs: passed to Gymnasium's environment, such as ``render_mode``.

    Raises:
        ValueError: as :class:`resel_torchrl.envs.task_set.TaskSet`.
        ModuleNotFoundError: if MuJoCo is not installed.
    """

    factor = "target_speed"

    def __init__(
        self,
        *,
        split: Split = "train",
        n_train: int = 100,
        n_test: int = 20,
        task_seed: int = 0,
        train_tasks: Sequence[Sequence[float]] | None = None,
        test_tasks: Sequence[Sequence[float]] | None = None,
        **kwargs: Any,
    ) -> None:
        tasks = TaskSet.make(
            lambda generator: [generator.uniform(0.0, 3.0)],
            split=split,
            n_train=n_train,
            n_test=n_test,
            task_seed=task_seed,
            train_tasks=train_tasks,
            test_tasks=test_tasks,
        )
        super().__init__(tasks, **kwargs)

    def _paid(self, velocity: np.ndarray, info: dict[str, Any]) -> float:
        return info["reward_ctrl"] - abs(velocity[0] - self._goal)
