"""Evaluation: the deterministic policy on the same episodes every time."""

from __future__ import annotations

import csv
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from resel_torchrl._random import untouched_generators
from resel_torchrl.collect.env_batch import batched
from resel_torchrl.collect.episode import EpisodeResult, episode_seed, read_measures

__all__ = ["Evaluation", "evaluate", "write_evaluation"]

Policy = Callable[..., Any]


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
    env: gymnasium.Env | VectorEnv,
    policy: Policy,
    *,
    episodes: int,
    seed: int,
    n_tasks: int = 0,
) -> Evaluation:
    """Runs whole episodes with the mode of the policy.

    One of several environments that is done with an episode begins the next one that
    nobody has begun; with none left it repeats another, which is not counted.

    Args:
        env: Environment of the evaluation's own, or a vector of them that are not reset
            by themselves (:func:`resel_torchrl.envs.vectorize`).
        policy: Called as `policy(observation, reward, first=..., deterministic=True)`;
            with a vector on arrays `[N, ...]`, else on those of one environment. The
            reward is None before the first step.
        episodes: Number of episodes.
        seed: Episode i starts from `episode_seed(seed, 0, i)`, whatever the run and
            whichever environment it is run in.
        n_tasks: Number of tasks that the environment's `reset` chooses from by
            `options={"task": number}`: episode i takes task i modulo this. With 0 the
            environment chooses by itself.

    Returns:
        What came of each, in the order of the episodes' numbers.

    Raises:
        ValueError: If there is no episode, or the environments reset themselves.

    >>> from resel_torchrl.collect import RecurrentPolicy
    >>> from resel_torchrl.envs import make_gym
    >>> from resel_torchrl.modules import make_agent
    >>> agent = make_agent(1, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 1, 1)
    >>> env = make_gym("Pendulum-V-v0")
    >>> first = evaluate(env, policy, episodes=2, seed=1)
    >>> first == evaluate(env, policy, episodes=2, seed=1)
    True
    """
    if episodes < 1:
        raise ValueError(f"expected at least 1 episode, got {episodes}; give more.")
    envs = batched(env)
    if not isinstance(env, VectorEnv):
        policy = _one_at_a_time(policy)
    numbers = itertools.count()  # of episodes begun; from `episodes` on not counted
    running = [_Run() for _ in range(envs.num_envs)]
    results: dict[int, EpisodeResult] = {}
    tasks: dict[int, dict[str, float]] = {}
    observations: list[Any] = [None for _ in running]
    rewards, first = None, np.ones(envs.num_envs, bool)
    with untouched_generators():
        while len(results) < episodes:
            starts = {}
            for i in np.flatnonzero(first).tolist():
                running[i] = _Run(next(numbers))
                number = running[i].number % episodes
                options = {"task": number % n_tasks} if n_tasks else None
                starts[i] = episode_seed(seed, 0, number), options
            begun = envs.reset(starts) if starts else {}
            for i, (observation, info) in begun.items():
                observations[i] = observation
                tasks[running[i].number] = read_measures(info, "task")
            actions = policy(
                np.array(observations), rewards, first=first, deterministic=True
            )
            after, rewards, terminated, truncated, infos = envs.step(actions)
            observations = list(after)
            for i, run in enumerate(running):
                run.total += float(rewards[i])
                run.length += 1
                first[i] = terminated[i] or truncated[i]
                if first[i] and run.number < episodes:
                    measures = read_measures(envs.info(infos, i))
                    result = EpisodeResult(run.total, run.length, measures)
                    results[run.number] = result
    order = range(episodes)
    names = list(results[0].measures)
    return Evaluation(
        tuple(results[i].episode_return for i in order),
        tuple(results[i].length for i in order),
        {name: tuple(results[i].measures[name] for i in order) for name in names},
        tuple(tasks[i] for i in order),
    )


@dataclass
class _Run:
    """An episode under way."""

    number: int = 0
    total: float = 0.0
    length: int = 0


def _one_at_a_time(policy: Policy) -> Policy:
    """The policy of one environment, called on a batch of one."""

    def act(
        observations: np.ndarray,
        rewards: Sequence[float] | None,
        *,
        first: np.ndarray,
        deterministic: bool,
    ) -> list[np.ndarray | int]:
        begins = bool(first[0])
        reward = None if begins else rewards[0]
        action = policy(
            observations[0], reward, first=begins, deterministic=deterministic
        )
        return [action]

    return act


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
