"""Evaluation: the deterministic policy on the same episodes every time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from resel_torchrl.training.episode import episode_seed
from resel_torchrl.training.generators import untouched_generators

__all__ = ["Evaluation", "evaluate", "evaluate_vector"]

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
    _check_episodes(episodes)
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


def evaluate_vector(
    envs: VectorEnv, policy: Callable[..., np.ndarray], *, episodes: int, seed: int
) -> Evaluation:
    """Runs the episodes of :func:`evaluate` in several environments at once.

    An environment that is done with an episode begins the next one that nobody has
    begun; with none left it repeats its own, which is not counted.

    Args:
        envs: Environments that are not reset by themselves
            (:func:`resel_torchrl.envs.vectorize`).
        policy: For as many environments; called as `policy(observations, rewards,
            first=..., deterministic=True)`.
        episodes: Number of episodes.
        seed: Episode i starts from `episode_seed(seed, 0, i)`, whichever environment
            it is run in.

    Returns:
        Each return and length, in the order of the episodes' numbers.

    >>> import functools
    >>> from resel_torchrl.envs import make_gym, vectorize
    >>> from resel_torchrl.training import VectorPolicy, make_agent
    >>> agent = make_agent(1, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = VectorPolicy(agent.actor_encoder, agent.actor, 1, 1, copies=2)
    >>> envs = vectorize([functools.partial(make_gym, "Pendulum-V-v0")] * 2)
    >>> evaluate_vector(envs, policy, episodes=3, seed=1).lengths
    (200, 200, 200)
    """
    _check_episodes(episodes)
    returns, lengths = np.zeros(episodes), np.zeros(episodes, int)
    seeds = [episode_seed(seed, 0, episode) for episode in range(episodes)]
    at_work = np.arange(envs.num_envs) % episodes  # number of each one's episode
    counted = np.arange(envs.num_envs) < episodes
    next_episode, rewards = envs.num_envs, None
    first = np.ones(envs.num_envs, bool)
    with untouched_generators():
        while counted.any():
            if first.any():
                observations, _ = envs.reset(
                    seed=[seeds[episode] for episode in at_work],
                    options={"reset_mask": first},
                )
            actions = policy(observations, rewards, first=first, deterministic=True)
            observations, rewards, terminated, truncated, _ = envs.step(actions)
            returns[at_work[counted]] += rewards[counted]
            lengths[at_work[counted]] += 1
            first = terminated | truncated
            for i in np.flatnonzero(first & counted):
                counted[i] = next_episode < episodes
                if counted[i]:
                    at_work[i] = next_episode
                    next_episode += 1
    return Evaluation(tuple(returns.tolist()), tuple(lengths.tolist()))


def _check_episodes(episodes: int) -> None:
    if episodes < 1:
        raise ValueError(f"expected at least 1 episode, got {episodes}; give more.")
