"""Gymnasium wrappers that turn an environment into a task.

:func:`fit_spaces` says what spaces an environment may have, and wraps it where they are
not yet what an agent takes. Each wrapper adds about a microsecond to a step.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import RecordConstructorArgs

from resel_torchrl.envs._support import Reset, Step
from resel_torchrl.errors import HorizonExceededError

__all__ = ["CheckEpisode", "MaskObservation", "ScaleAction", "fit_spaces"]


def fit_spaces(env: gymnasium.Env) -> gymnasium.Env:
    """Wraps an environment so that its spaces are those that an agent takes.

    Returns:
        The environment with float32 observations ``[n]`` and actions that are float32,
        of any shape, in [-1, 1], or integers counted from 0.

    Raises:
        ValueError: if its observations are no vectors, or its actions neither a bounded
            ``Box`` nor ``Discrete``.
    """
    observed, actions = env.observation_space, env.action_space
    vector = isinstance(observed, Box) and len(observed.shape) == 1
    if not vector or observed.dtype != np.float32:
        env = MaskObservation(env)
    if isinstance(actions, Box):
        unit = (actions.low == -1).all() and (actions.high == 1).all()
        return env if unit and actions.dtype == np.float32 else ScaleAction(env)
    if not isinstance(actions, Discrete) or actions.start != 0:
        raise ValueError(
            "expected actions that are a Box, or Discrete and counted from 0, but "
            f"{env} has {actions}; convert them in a wrapper of your own"
        )
    return env


class MaskObservation(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """Shows only some dimensions of the observation, as float32.

    Args:
        env: environment whose observations have shape ``(n,)``.
        kept: the dimensions to show, each in ``[0, n)`` and named once, in the order
            in which they are to appear; ``None`` shows all.

    Attributes:
        kept: the dimensions that are shown.

    Raises:
        ValueError: if no dimension is kept, one is out of range or named twice, or
            the observations are no vectors.

    Examples:
        >>> import gymnasium
        >>> env = MaskObservation(gymnasium.make("Pendulum-v1"), kept=[2])
        >>> observation, _ = env.reset(seed=0)
        >>> observation.shape, env.observation_space
        ((1,), Box(-8.0, 8.0, (1,), float32))
        >>> MaskObservation(gymnasium.make("Pendulum-v1"), kept=[1, 3])
        Traceback (most recent call last):
        ...
        ValueError: kept dimension 3 is out of range: the observation has 3 \
dimensions, numbered 0 to 2
    """

    def __init__(self, env: gymnasium.Env, kept: Sequence[int] | None = None):
        RecordConstructorArgs.__init__(self, kept=kept)
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise ValueError(
                "expected observations of one dimension (a Box of shape (n,)), but "
                f"{env} has {space}; wrap it in gymnasium.wrappers.FlattenObservation"
            )
        size = space.shape[0]
        self.kept = _checked_dimensions(range(size) if kept is None else kept, size)
        self._index = np.array(self.kept)
        self.observation_space = Box(
            space.low[self._index].astype(np.float32),
            space.high[self._index].astype(np.float32),
            dtype=np.float32,
        )

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Returns the kept dimensions of ``observation``, float32."""
        return observation[self._index].astype(np.float32, copy=False)


def _checked_dimensions(kept: Sequence[int], size: int) -> tuple[int, ...]:
    dimensions = tuple(operator.index(dimension) for dimension in kept)
    if not dimensions:
        raise ValueError(
            f"kept is empty: expected at least one of the {size} dimensions of the "
            f"observation, numbered 0 to {size - 1}"
        )
    for dimension in dimensions:
        if not 0 <= dimension < size:
            raise ValueError(
                f"kept dimension {dimension} is out of range: the observation has "
                f"{size} dimensions, numbered 0 to {size - 1}"
            )
        if dimensions.count(dimension) > 1:
            raise ValueError(
                f"kept dimension {dimension} is named {dimensions.count(dimension)} "
                f"times in {dimensions}: name each dimension once"
            )
    return dimensions


class ScaleAction(gymnasium.ActionWrapper, RecordConstructorArgs):
    """Takes actions in [-1, 1] and maps them linearly to the environment's bounds.

    Actions are not clipped: the environments do that themselves where they need it.

    Args:
        env: environment with a bounded ``Box`` of actions.

    Raises:
        ValueError: if the actions are not a ``Box`` or have an infinite bound.

    Examples:
        >>> import gymnasium, numpy as np
        >>> env = ScaleAction(gymnasium.make("Pendulum-v1"))
        >>> env.action_space
        Box(-1.0, 1.0, (1,), float32)
        >>> env.action(np.float32([0.5]))  # torque, up to 2 N m
        array([1.], dtype=float32)
    """

    def __init__(self, env: gymnasium.Env):
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, Box):
            raise ValueError(
                f"expected a Box of actions to scale, but {env} has {space}"
            )
        if not space.is_bounded():
            raise ValueError(
                f"the actions of {env} are unbounded ({space}), so they cannot be "
                "scaled to [-1, 1]; give the action space finite bounds"
            )
        self._center = (space.high + space.low) / 2
        self._half_range = (space.high - space.low) / 2
        self.action_space = Box(-1.0, 1.0, space.shape, np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        """Returns ``action``, in [-1, 1], in the environment's own units."""
        return self._center + action * self._half_range


class CheckEpisode(gymnasium.Wrapper, RecordConstructorArgs):
    """Stops on data that would spoil a run.

    That is: a NaN or infinite observation, reward or action; an episode that goes on
    past its horizon; a step after the end of an episode. Errors name the task, the step
    within the episode, and the seed from which it can be repeated.

    Args:
        env: environment with float observations.
        horizon: the largest number of steps an episode may have; ``None`` for any.

    Raises:
        FloatingPointError: from ``reset`` or ``step``, on a value that is not finite.
        HorizonExceededError: from ``step``, past the horizon.
        RuntimeError: from ``step``, past the end of the episode.

    Examples:
        >>> import gymnasium, numpy as np
        >>> env = CheckEpisode(gymnasium.make("Pendulum-v1"))
        >>> _ = env.reset(seed=3)
        >>> env.step(np.float32([np.nan]))
        Traceback (most recent call last):
        ...
        FloatingPointError: Pendulum-v1 got a non-finite action at step 1 (seed 3): \
expected finite numbers, got [nan]; check the policy
    """

    def __init__(self, env: gymnasium.Env, horizon: int | None = None):
        RecordConstructorArgs.__init__(self, horizon=horizon)
        super().__init__(env)
        self._name = env.spec.id if env.spec is not None else str(env.unwrapped)
        self.horizon = horizon
        self._last_step = math.inf if horizon is None else horizon
        self._continuous = isinstance(env.action_space, Box)
        self._seed: int | None = None
        self._episode = 0
        self._steps = 0
        self._over = False

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        """Starts an episode, see :meth:`gymnasium.Env.reset`."""
        if seed is None:
            self._episode += 1
        else:
            self._seed, self._episode = seed, 0
        self._steps, self._over = 0, False
        observation, info = self.env.reset(seed=seed, options=options)
        if not np.isfinite(observation).all():
            raise self._non_finite("observation", observation)
        return observation, info

    def step(self, action: Any) -> Step:
        """Makes one step, see :meth:`gymnasium.Env.step`."""
        if self._over or self._steps >= self._last_step:
            raise self._past_end()
        self._steps += 1
        if self._continuous and not np.isfinite(action).all():
            raise FloatingPointError(
                f"{self._name} got a non-finite action at {self._where()}: expected "
                f"finite numbers, got {np.asarray(action)}; check the policy"
            )
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward = float(reward)
        if not math.isfinite(reward):
            raise self._non_finite("reward", reward)
        if not np.isfinite(observation).all():
            raise self._non_finite("observation", observation)
        self._over = terminated or truncated
        return observation, reward, terminated, truncated, info

    def _where(self) -> str:
        if self._seed is None:
            return f"step {self._steps} (no seed given)"
        later = f", {self._episode} resets later" if self._episode else ""
        return f"step {self._steps} (seed {self._seed}{later})"

    def _non_finite(self, what: str, value: Any) -> FloatingPointError:
        return FloatingPointError(
            f"{self._name} returned a non-finite {what} at {self._where()}: expected "
            f"finite numbers, got {value}; the simulation has become unstable or the "
            f"environment has a fault, repeat the episode from this seed to see which"
        )

    def _past_end(self) -> RuntimeError:
        if self._over:
            return RuntimeError(
                f"step() was called after the episode of {self._name} had ended at "
                f"{self._where()}: call reset() first"
            )
        return HorizonExceededError(
            f"an episode of {self._name} is longer than the horizon of "
            f"{self._last_step} steps, at {self._where()}: give a larger horizon, or "
            f"let the environment end its episodes (gymnasium.wrappers.TimeLimit)"
        )
