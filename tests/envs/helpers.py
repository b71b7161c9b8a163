"""Environments and runs shared by the tests of resel_torchrl.envs."""

from __future__ import annotations

from typing import NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Episode(NamedTuple):
    observations: np.ndarray  # [T + 1, n]
    rewards: np.ndarray  # [T]
    terminated: list[bool]
    truncated: list[bool]


def random_actions(env: gymnasium.Env, steps: int, seed: int = 0) -> list:
    """Actions over the whole range of the task's actions."""
    rng = np.random.default_rng(seed)
    if isinstance(env.action_space, Discrete):
        return [int(action) for action in rng.integers(env.action_space.n, size=steps)]
    size = (steps, *env.action_space.shape)
    return list(rng.uniform(-1, 1, size).astype(np.float32))


def play(env: gymnasium.Env, seed: int | None, actions: list) -> Episode:
    """Plays ``actions``, or as many as the episode lasts."""
    observations, rewards, ends = [env.reset(seed=seed)[0]], [], []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
        ends.append((terminated, truncated))
        if terminated or truncated:
            break
    terminated, truncated = (list(flags) for flags in zip(*ends, strict=True))
    return Episode(np.stack(observations), np.array(rewards), terminated, truncated)


def same(one: Episode, other: Episode) -> bool:
    """Whether two episodes are equal to the last bit."""
    return (
        np.array_equal(one.observations, other.observations)
        and np.array_equal(one.rewards, other.rewards)
        and one[2:] == other[2:]
    )


class Counter(gymnasium.Env):
    """Observes (steps, -steps) and is paid the action; says at which step what fails.

    Its actions lie in [-1, 3], its observations are float64, and it never ends.
    """

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-1.0, 3.0, (1,), np.float64)

    def __init__(self, faults: dict[int, dict[str, float]] | None = None):
        self.faults = faults or {}
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        fault = self.faults.get(0, {})
        return np.array([fault.get("observation", 0.0), 0.0]), {}

    def step(self, action):
        self.steps += 1
        fault = self.faults.get(self.steps, {})
        observation = np.array([fault.get("observation", self.steps), -self.steps])
        reward = fault.get("reward", float(action[0]))
        return observation, reward, self.steps in self.faults.get("ends", ()), False, {}
