"""Meta-RL: a few inner episodes with one hidden factor, played as one episode.

The paper's tasks (arXiv 2405.15384): ``AntDir-v0``, ``CheetahDir-v0`` and
``HalfCheetahVel-v0``, of two inner episodes of 200 steps, and ``Wind-v0``, of a single
one of 75. An agent that remembers what the first inner episode showed does better in
the second: no episode ends between them, so that an encoder's memory goes on.

The direction of AntDir and CheetahDir is drawn anew for each trial. Wind and
HalfCheetahVel have fixed sets of tasks, some to train and others to test on.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs

from resel_torchrl.envs.meta_mujoco import (
    AntDirection,
    CheetahDirection,
    CheetahVelocity,
)
from resel_torchrl.envs.options import whole_number
from resel_torchrl.envs.wind import Wind

__all__ = ["HORIZON", "TASKS", "Trial", "make"]

HORIZON = None  # a trial ends by itself; its attribute `horizon` is the longest one


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

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a trial, see :meth:`gymnasium.Env.reset`."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._steps = 0
        self._returns = [0.0]
        return self._flagged(observation, 0.0), {**info, "inner_episode": 0}

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
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
        return (
            self._flagged(observation, inner_end),
            reward,
            terminated,
            truncated,
            info,
        )

    def _flagged(self, observation: np.ndarray, flag: float) -> np.ndarray:
        if self.inner_episodes == 1:
            return observation.astype(np.float32, copy=False)
        flagged = np.empty(len(observation) + 1, np.float32)
        flagged[:-1] = observation
        flagged[-1] = flag
        return flagged


def make(
    system: str,
    *,
    inner_episodes: int,
    inner_steps: int,
    inner_reset_observation: Literal["start", "last"] = "start",
    **kwargs: Any,
) -> gymnasium.Env:
    """Makes a trial.

    Args:
        system: ``"Wind"``, ``"AntDirection"``, ``"CheetahDirection"`` or
            ``"CheetahVelocity"``.
        inner_episodes: as of :class:`Trial`.
        inner_steps: as of :class:`Trial`.
        inner_reset_observation: as of :class:`Trial`.
        **kwargs: passed to the environment within, such as ``split``.

    Returns:
        The environment, without time limit.

    Raises:
        ValueError: as :class:`Trial`, and as the environment within.
        ModuleNotFoundError: if the simulator is not installed.

    Examples:
        >>> make("Wind", inner_episodes=1, inner_steps=75, split="test").horizon
        75
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

_TWICE = {"inner_episodes": 2, "inner_steps": 200}

TASKS: dict[str, dict[str, Any]] = {
    "AntDir-v0": {"system": "AntDirection", **_TWICE},
    "CheetahDir-v0": {"system": "CheetahDirection", **_TWICE},
    "HalfCheetahVel-v0": {"system": "CheetahVelocity", **_TWICE},
    "Wind-v0": {"system": "Wind", "inner_episodes": 1, "inner_steps": 75},
}
