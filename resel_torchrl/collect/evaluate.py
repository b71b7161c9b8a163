"""Evaluation: the deterministic policy on the same episodes every time."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from resel_torchrl._random import untouched_generators
from resel_torchrl.collect.episode import (
    EpisodeResult,
    episode_seed,
    read_measures,
    read_vector_measures,
)

__all__ = [
    "Evaluation",
    "evaluate",
    "evaluate_vector",
    "write_evaluation",
]

Policy = Callable[..., np.ndarray | int]


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns of evaluation episodes, and what else was measured.

    Attributes:
        returns: Return of each episode.
        lengths: Steps of each episode.
        measures: By name, what the environment measures each episode by beside the
            return, such as `{"success": (1.0, 0.0)}`.
        tasks: Of each episode the hidden factors of its task, such as
            `{"gravity": 1.2}`; empty dicts where there are none.

    >>> result = Evaluation((-3.0, -1.0), (200, 200), {"success": (0.0, 1.0)})
    >>> result.mean, result.standard_error, result.mean_measures
    (-2.0, 1.0, {'success': 0.5})
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    measures: dict[str, tuple[float, ...]] = field(default_factory=dict)
    tasks: tuple[dict[str, float], ...] = ()

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

    @property
    def mean_measures(self) -> dict[str, float]:
        """Mean of each measure."""
        return {k: statistics.fmean(values) for k, values in self.measures.items()}


def evaluate(
    env: gymnasium.Env, policy: Policy, *, episodes: int, seed: int, n_tasks: int = 0
) -> Evaluation:
    """Runs whole episodes with the mode of the policy.

    Args:
        env: Environment of the evaluation's own.
        policy: Called as `policy(observation, reward, first=..., deterministic=True)`.
        episodes: Number of episodes.
        seed: Episode i starts from `episode_seed(seed, 0, i)`, whatever the run.
        n_tasks: Number of tasks that the environment's `reset` chooses from by
            `options={"task": number}`: episode i takes task i modulo this. With 0 the
            environment chooses by itself.

    Returns:
        What came of each.

    >>> from resel_torchrl.envs import make_gym
    >>> from resel_torchrl.collect import RecurrentPolicy
    >>> from resel_torchrl.modules import make_agent
    >>> agent = make_agent(1, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 1, 1)
    >>> env = make_gym("Pendulum-V-v0")
    >>> first = evaluate(env, policy, episodes=2, seed=1)
    >>> first == evaluate(env, policy, episodes=2, seed=1)
    True
    """
    _check_episodes(episodes)
    results, tasks = [], []
    with untouched_generators():
        for episode in range(episodes):
            observation, info = env.reset(
                seed=episode_seed(seed, 0, episode),
                options={"task": episode % n_tasks} if n_tasks else None,
            )
            tasks.append(_task(info))
            total, length, reward, done = 0.0, 0, None, False
            while not done:
                action = policy(
                    observation, reward, first=length == 0, deterministic=True
                )
                observation, reward, terminated, truncated, info = env.step(action)
                total += float(reward)
                length += 1
                done = terminated or truncated
            results.append(EpisodeResult(total, length, read_measures(info)))
    return _evaluation(results, tasks)


def evaluate_vector(
    envs: VectorEnv,
    policy: Callable[..., np.ndarray],
    *,
    episodes: int,
    seed: int,
    n_tasks: int = 0,
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
        n_tasks: As for :func:`evaluate`.

    Returns:
        What came of each, in the order of the episodes' numbers.

    >>> import functools
    >>> from resel_torchrl.envs import make_gym, vectorize
    >>> from resel_torchrl.collect import VectorPolicy
    >>> from resel_torchrl.modules import make_agent
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
    measures: list[dict[str, float]] = [{} for _ in range(episodes)]
    tasks: list[dict[str, float]] = [{} for _ in range(episodes)]
    with untouched_generators():
        while counted.any():
            if first.any():
                begins = [seeds[episode] for episode in at_work]
                observations, infos = envs.reset(
                    seed=begins, options={"reset_mask": first}
                )
                for i in np.flatnonzero(first):
                    episode = int(at_work[i])
                    if n_tasks:  # each has its own, so one by one
                        mask = np.arange(envs.num_envs) == i
                        options = {"reset_mask": mask, "task": episode % n_tasks}
                        observations, infos = envs.reset(seed=begins, options=options)
                    tasks[episode] = _vector_task(infos, i)
            actions = policy(observations, rewards, first=first, deterministic=True)
            observations, rewards, terminated, truncated, infos = envs.step(actions)
            returns[at_work[counted]] += rewards[counted]
            lengths[at_work[counted]] += 1
            first = terminated | truncated
            for i in np.flatnonzero(first & counted):
                measures[at_work[i]] = read_vector_measures(infos, i)
                counted[i] = next_episode < episodes
                if counted[i]:
                    at_work[i] = next_episode
                    next_episode += 1
    parts = zip(returns.tolist(), lengths.tolist(), measures, strict=True)
    return _evaluation([EpisodeResult(*part) for part in parts], tasks)


def _evaluation(
    results: Sequence[EpisodeResult], tasks: Sequence[dict[str, float]]
) -> Evaluation:
    names = list(results[0].measures)
    return Evaluation(
        tuple(result.episode_return for result in results),
        tuple(result.length for result in results),
        {name: tuple(result.measures[name] for result in results) for name in names},
        tuple(tasks),
    )


def _task(info: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in info.get("task", {}).items()}


def _vector_task(infos: Mapping[str, Any], i: int) -> dict[str, float]:
    task = infos.get("task", {})
    return {k: float(values[i]) for k, values in task.items() if not k.startswith("_")}


def write_evaluation(path: str | Path, evaluation: Evaluation) -> None:
    """Writes a row per episode: number, return, length, measures, task.

    Args:
        path: CSV file; its folder is made, an older file replaced.
        evaluation: What it holds.

    >>> import tempfile
    >>> result = Evaluation((-3.5,), (200,), {"success": (1.0,)}, ({"gravity": 0.9},))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_evaluation(f"{folder}/a.csv", result)
    ...     print(Path(folder, "a.csv").read_text(), end="")
    episode,return,length,success,gravity
    0,-3.5,200,1.0,0.9
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tasks = evaluation.tasks or tuple({} for _ in evaluation.returns)
    factors = list(tasks[0])
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        columns = ["episode", "return", "length", *evaluation.measures, *factors]
        writer.writerow(columns)
        for i, (total, length) in enumerate(
            zip(evaluation.returns, evaluation.lengths, strict=True)
        ):
            measures = [values[i] for values in evaluation.measures.values()]
            factors_of = [tasks[i][name] for name in factors]
            writer.writerow([i, total, length, *measures, *factors_of])


def _check_episodes(episodes: int) -> None:
    if episodes < 1:
        raise ValueError(f"expected at least 1 episode, got {episodes}; give more.")
