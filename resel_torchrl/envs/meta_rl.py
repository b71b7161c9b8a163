"""Meta-RL: a few inner episodes with one hidden factor, played as one episode.

The paper's tasks (arXiv 2405.15384): ``AntDir-v0``, ``CheetahDir-v0`` and
``HalfCheetahVel-v0``, of two inner episodes of 200 steps, and ``Wind-v0``, of a single
one of 75. An agent that remembers what the first inner episode showed does better in
the second: no episode ends between them, so that its hidden state goes on.

The direction of AntDir and CheetahDir is drawn anew for each trial. Wind and
HalfCheetahVel have fixed sets of tasks, some to train and others to test on.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs

from resel_torchrl.envs._support import Reset, Step, make_mujoco_robot, whole_number
from resel_torchrl.envs.dynamics import TaskSet

__all__ = [
    "TASKS",
    "AntDirection",
    "CheetahDirection",
    "CheetahVelocity",
    "Trial",
    "Wind",
    "make",
]


class Trial(gymnasium.Wrapper, RecordConstructorArgs):
    """Plays several inner episodes, of one hidden factor, as one episode.

    An inner episode ends after ``inner_steps``, or earlier where the environment ends
    it (a fall). If it was not the last one the robot is then put back to a start, and
    neither ``terminated`` nor ``truncated`` is true: values bootstrap across it. The
    last one ends the trial, by the clock as a truncation, by a fall as a terminal.

    With more than one, the observation gets one more entry, the inner-end flag: 1 in
    the observation that comes from the step at which an inner episode ended, the last
    one included, else 0.

    Args:
        env: has a method ``restart()``, which puts it back to a start without changing
            its hidden factor and returns the observation; its observations are vectors.
        inner_episodes: inner episodes of a trial.
        inner_steps: steps after which an inner episode ends.
        inner_reset_observation: what the step that ends an inner episode but the last
            one shows: ``"start"``, the robot that was put back, or ``"last"``, the one
            before, as the paper's released code.

    Attributes:
        horizon: steps of the longest trial.
        measures: names of what ``info["measures"]`` holds at the end of a trial of two
            inner episodes or more: ``return_1``, ``return_2``, ..., the return of each,
            and ``adaptation``, that of the last one less that of the first.

    Raises:
        ValueError: if a number is below 1, or ``inner_reset_observation`` is unknown.

    Examples:
        >>> env = Trial(Wind(), inner_episodes=2, inner_steps=2)
        >>> env.horizon, env.measures, env.reset(seed=0)[0]
        (4, ('return_1', 'return_2', 'adaptation'), array([0., 0., 0.], dtype=float32))
        >>> steps = [env.step(np.zeros(2)) for _ in range(4)]
        >>> [float(step[0][2]) for step in steps], [step[3] for step in steps]
        ([0.0, 1.0, 0.0, 1.0], [False, False, False, True])
        >>> steps[-1][4]["measures"]
        {'return_1': 0.0, 'return_2': 0.0, 'adaptation': 0.0}
    """

    def __init__(
        self,
        env: gymnasium.Env,
        *,
        inner_episodes: int,
        inner_steps: int,
        inner_reset_observation: Literal["start", "last"] = "start",
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            inner_episodes=inner_episodes,
            inner_steps=inner_steps,
            inner_reset_observation=inner_reset_observation,
        )
        super().__init__(env)
        self.inner_episodes = whole_number("inner_episodes", inner_episodes)
        self.inner_steps = whole_number("inner_steps", inner_steps)
        if inner_reset_observation not in ("start", "last"):
            raise ValueError(
                "expected inner_reset_observation start (the robot that was put back) "
                f"or last (the one before), got {inner_reset_observation!r}"
            )
        self.inner_reset_observation = inner_reset_observation
        self.horizon = self.inner_episodes * self.inner_steps
        self.measures: tuple[str, ...] = ()
        space = env.observation_space
        low, high = space.low, space.high
        if self.inner_episodes > 1:
            numbers = range(1, self.inner_episodes + 1)
            self.measures = (*(f"return_{i}" for i in numbers), "adaptation")
            low, high = np.append(low, 0.0), np.append(high, 1.0)
        self.observation_space = Box(
            low.astype(np.float32), high.astype(np.float32), dtype=np.float32
        )
        self._restart = env.get_wrapper_attr("restart")
        self._steps = 0
        self._returns = [0.0]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        """Starts a trial, see :meth:`gymnasium.Env.reset`."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._steps = 0
        self._returns = [0.0]
        return self._flagged(observation, 0.0), {**info, "inner_episode": 0}

    def step(self, action: np.ndarray) -> Step:
        """Makes one step, see :meth:`gymnasium.Env.step`.

        ``info["inner_episode"]`` is the number, from 0, of the inner episode to which
        the step belongs.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        self._returns[-1] += float(reward)
        info["inner_episode"] = len(self._returns) - 1
        inner_end = terminated or truncated or self._steps == self.inner_steps
        if inner_end and len(self._returns) < self.inner_episodes:
            start = self._restart()
            if self.inner_reset_observation == "start":
                observation = start
            terminated = truncated = False
            self._steps = 0
            self._returns.append(0.0)
        elif inner_end:
            truncated = not terminated
            if self.measures:
                adaptation = self._returns[-1] - self._returns[0]
                values = [*self._returns, adaptation]
                info["measures"] = dict(zip(self.measures, values, strict=True))
        observation = self._flagged(observation, inner_end)
        return observation, reward, terminated, truncated, info

    def _flagged(self, observation: np.ndarray, flag: float) -> np.ndarray:
        if self.inner_episodes == 1:
            return observation.astype(np.float32, copy=False)
        flagged = np.empty(len(observation) + 1, np.float32)
        flagged[:-1] = observation
        flagged[-1] = flag
        return flagged


class _HiddenGoal(gymnasium.Wrapper):
    """A robot with a goal that is drawn at ``reset`` and never seen."""

    factor: str  # name of the goal in ``info["task"]``

    def __init__(self, env: gymnasium.Env, tasks: TaskSet) -> None:
        super().__init__(env)
        self._tasks = tasks
        self.facts = tasks.facts()
        self.n_tasks = len(tasks.tasks)
        self._goal = math.nan
        self._data = env.unwrapped.data
        self._dt = env.unwrapped.dt

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        """Starts an episode with another goal, see :meth:`gymnasium.Env.reset`."""
        observation, info = self.env.reset(seed=seed)
        # After the state, so that the same seed gives the same start to every goal.
        (self._goal,) = self._tasks.choose(self.np_random, options)
        return self._observe(observation), {**info, "task": {self.factor: self._goal}}

    def restart(self) -> np.ndarray:
        """Puts the robot back to a random start; the goal stays."""
        return self._observe(self.env.reset()[0])

    def step(self, action: np.ndarray) -> Step:
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


def _two_directions() -> TaskSet:
    return TaskSet(train=((-1.0,), (1.0,)), test=(), split="train")


class AntDirection(_HiddenGoal):
    """An ant that is to walk into a hidden direction, of -1 or 1 radian.

    The reward is velocity · (cos, sin) of the direction - 0.5 |action|² - 5e-4 |contact
    forces, clipped to [-1, 1]|² + 1. The ant falls where the height of its torso leaves
    [0.2, 1.0] m. It sees ``qpos`` without x and y (13) and ``qvel`` (14). Arguments are
    those of Gymnasium's environment.
    """

    factor = "direction"

    def __init__(self, **kwargs: Any) -> None:
        options = {"ctrl_cost_weight": 0.5, "contact_cost_weight": 5e-4}
        options["include_cfrc_ext_in_observation"] = False
        env = make_mujoco_robot("Ant", **{**options, **kwargs})
        super().__init__(env, _two_directions())

    def _paid(self, velocity: np.ndarray, info: dict[str, Any]) -> float:
        speed = velocity @ (math.cos(self._goal), math.sin(self._goal))
        return speed + info["reward_ctrl"] + info["reward_contact"] + 1


class _Cheetah(_HiddenGoal):
    """Sees ``qpos`` without x (8), ``qvel`` (9) and the torso's position (3).

    The last is MuJoCo's ``xpos``, as in the field's environments: after a step, that of
    the last of its five substeps. Arguments are those of Gymnasium's environment.
    """

    def __init__(self, tasks: TaskSet, **kwargs: Any) -> None:
        env = make_mujoco_robot("HalfCheetah", **{"ctrl_cost_weight": 0.05, **kwargs})
        super().__init__(env, tasks)
        size = self.env.observation_space.shape[0] + 3
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self._torso = self._data.body("torso").xpos  # a view

    def _observe(self, observation: np.ndarray) -> np.ndarray:
        return np.concatenate((observation, self._torso))


class CheetahDirection(_Cheetah):
    """A cheetah that is to run forward or backward, which is hidden.

    The reward is direction · speed - 0.05 |action|², the direction -1 or 1.
    """

    factor = "direction"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(_two_directions(), **kwargs)

    def _paid(self, velocity: np.ndarray, info: dict[str, Any]) -> float:
        return self._goal * velocity[0] + info["reward_ctrl"]


class CheetahVelocity(_Cheetah):
    """A cheetah that is to run at a hidden speed, between 0 and 3 m/s.

    The reward is -|speed - target speed| - 0.05 |action|². Arguments are also those of
    :meth:`TaskSet.make`, for tasks ``[speed]``.
    """

    factor = "target_speed"

    def __init__(self, *, n_train: int = 100, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in TaskSet.OPTIONS if name in kwargs}
        tasks = TaskSet.make(
            lambda generator: [generator.uniform(0.0, 3.0)], n_train=n_train, **options
        )
        super().__init__(tasks, **kwargs)

    def _paid(self, velocity: np.ndarray, info: dict[str, Any]) -> float:
        return info["reward_ctrl"] - abs(velocity[0] - self._goal)


class Wind(gymnasium.Env):
    """A point that goes from (0, 0) to (0, 1) while a hidden wind moves it, too.

    Each step adds the action, each coordinate of it clipped to [-0.1, 0.1], and the
    wind to the position, which is the observation. The reward is 1 where the point is
    then within ``radius`` of (0, 1), else 0. The wind is that of the task, drawn from
    [-0.08, 0.08]² and the same in all of an episode. :class:`Trial` ends the episode.

    Random moves hardly ever come so near. ``reset(options={"radius": r})`` makes the
    goal of one episode larger, which a curriculum may use.

    Args:
        radius: of the goal.
        **tasks: the arguments of :meth:`TaskSet.make` but ``draw``, for tasks
            ``[x, y]``.

    Raises:
        ValueError: if a radius is no finite number above 0; and as :class:`TaskSet`.
    """

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-0.1, 0.1, (2,), np.float32)
    curriculum_options = ("radius",)

    def __init__(self, *, radius: float = 0.03, **tasks: Any) -> None:
        self._tasks = TaskSet.make(
            lambda generator: generator.uniform(-0.08, 0.08, 2), **tasks
        )
        self.n_tasks = len(self._tasks.tasks)
        self.facts = self._tasks.facts()
        self.radius = self._radius = _checked_radius(radius)
        self._wind = np.zeros(2)
        self._position = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        """Takes a task, that of number ``options["task"]`` or a random one."""
        super().reset(seed=seed)
        self._radius = _checked_radius((options or {}).get("radius", self.radius))
        self._wind = np.array(self._tasks.choose(self.np_random, options))
        return self.restart(), self._info()

    def restart(self) -> np.ndarray:
        """Puts the point back to (0, 0) in the same wind."""
        self._position = np.zeros(2)
        return self._position.astype(np.float32)

    def step(self, action: np.ndarray) -> Step:
        """Moves the point, see :meth:`gymnasium.Env.step`."""
        action = np.asarray(action, np.float64)
        self._position = self._position + np.clip(action, -0.1, 0.1) + self._wind
        distance = np.hypot(*(self._position - (0.0, 1.0)))
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


def make(
    system: str,
    *,
    inner_episodes: int,
    inner_steps: int,
    inner_reset_observation: Literal["start", "last"] = "start",
    **kwargs: Any,
) -> gymnasium.Env:
    """Makes a trial of ``"Wind"``, ``"AntDirection"``, or of either cheetah.

    Arguments are those of :class:`Trial`; others are passed to the environment within,
    such as ``split``.

    Raises:
        ValueError: as :class:`Trial`, and as the environment within.
        ModuleNotFoundError: if the simulator is not installed.
    """
    if system not in _SYSTEMS:
        raise ValueError(
            f"expected a system out of {', '.join(_SYSTEMS)}, got {system!r}"
        )
    return Trial(
        _SYSTEMS[system](**kwargs),
        inner_episodes=inner_episodes,
        inner_steps=inner_steps,
        inner_reset_observation=inner_reset_observation,
    )


_SYSTEMS = {
    system.__name__: system
    for system in (Wind, AntDirection, CheetahDirection, CheetahVelocity)
}

TASKS = [
    EnvSpec(
        f"{name}-v0",
        f"{__name__}:make",
        kwargs={"system": system, "inner_episodes": episodes, "inner_steps": steps},
    )
    for name, system, episodes, steps in (
        ("AntDir", "AntDirection", 2, 200),
        ("CheetahDir", "CheetahDirection", 2, 200),
        ("HalfCheetahVel", "CheetahVelocity", 2, 200),
        ("Wind", "Wind", 1, 75),
    )
]
