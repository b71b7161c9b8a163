"""Evaluation: the deterministic policy on the same episodes every time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import numpy as np

from resel_torchrl.training.collect import episode_seed
from resel_torchrl.training.generators import untouched_generators

__all__ = ["Evaluation", "evaluate"]

Policy = Callable[..., np.ndarray | int]


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns of evaluation episodes.

    >>> result = Evaluation((-3.0, -1.0), (200, 200))
    >>> result.mean, result.standard_error
    (-2.0, 1.0)
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean return."""
        return statistics.fmean(self.returns)

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN for a single episode."""
        if len(self.returns) < 2:
            return math.nan
        return statistics.stdev(self.returns) / math.sqrt(len(self.returns))


def evaluate(
    env: gymnasium.Env, policy: Policy, *, episodes: int, seed: int
) -> Evaluation:
    """Runs whole episodes with the mode of the policy.

    Args:
        env: Environment of the evaluation's own.
        policy: Called as `policy(observation, reward, first=..., deterministic=True)`.
        episodes: Number of episodes.
        seed: Episode i starts from `episode_seed(seed, 0, i)`, whatever the run.

    Returns:
        Each return and length.

    >>> from resel_torchrl.envs import make_gym
    >>> from resel_torchrl.training import RecurrentPolicy, make_agent
    >>> agent = make_agent(1, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 1, 1)
    >>> env = make_gym("Pendulum-V-v0")
    >>> first = evaluate(env, policy, episodes=2, seed=1)
    >>> first == evaluate(env, policy, episodes=2, seed=1)
    True
    """
    if episodes < 1:
        raise ValueError(f"expected at least 1 episode, got {episodes}; give more.")
    returns, lengths = [], []
    with untouched_generators():
        for episode in range(episodes):
            observation, _ = env.reset(seed=episode_seed(seed, 0, episode))
            total, length, reward, done = 0.0, 0, None, False
            while not done:
                action = policy(
                    observation, reward, first=length == 0, deterministic=True
                )
                observation, reward, terminated, truncated, _ = env.step(action)
                total += float(reward)
                length += 1
                done = terminated or truncated
            returns.append(total)
            lengths.append(length)
    return Evaluation(tuple(returns), tuple(lengths))
