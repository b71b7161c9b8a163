"""The environments of a run: one, or several that are stepped together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from resel_torchrl.config.schema import Config
from resel_torchrl.envs import make_gym, vectorize
from resel_torchrl.training import (
    Evaluation,
    RecurrentPolicy,
    VectorPolicy,
    evaluate,
    evaluate_vector,
)

__all__ = [
    "copies_problems",
    "eval_copies",
    "make_evaluation",
    "make_run_env",
    "make_run_envs",
]


def make_run_env(config: Config) -> gymnasium.Env:
    """One environment.

    >>> from resel_torchrl.config import compose
    >>> make_run_env(compose(["task=pendulum_v"])).observation_space.shape
    (1,)
    """
    return make_gym(config.env.id, horizon=config.env.horizon, **config.env.kwargs)


def make_run_envs(config: Config, copies: int) -> VectorEnv:
    """Several, as `env.vectorization` says.

    >>> from resel_torchrl.config import compose
    >>> make_run_envs(compose(["task=pendulum_v"]), 2).num_envs
    2
    """
    make = functools.partial(
        make_gym, config.env.id, horizon=config.env.horizon, **config.env.kwargs
    )
    return vectorize([make] * copies, config.env.vectorization)


def eval_copies(config: Config, episodes: int) -> int:
    """How many environments evaluate: `env.copies`, but no more than episodes.

    >>> from resel_torchrl.config import compose
    >>> eval_copies(compose(["env.copies=8", "steps=800"]), 5)
    5
    """
    return min(config.env.copies, max(episodes, 1))


def make_evaluation(
    config: Config, policy: RecurrentPolicy | VectorPolicy, *, episodes: int, seed: int
) -> Callable[[], Evaluation]:
    """What evaluates a policy, in as many environments as it is for.

    Args:
        config: The configuration.
        policy: Acts in one environment or in several.
        episodes: Number of episodes.
        seed: Their seed.

    >>> from resel_torchrl.config import compose
    >>> from resel_torchrl.training import make_agent
    >>> agent = make_agent(1, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = VectorPolicy(agent.actor_encoder, agent.actor, 1, 1, copies=2)
    >>> config = compose(["task=pendulum_v"])
    >>> make_evaluation(config, policy, episodes=2, seed=0)().lengths
    (200, 200)
    """
    options = {"episodes": episodes, "seed": seed}
    if isinstance(policy, RecurrentPolicy):
        return functools.partial(evaluate, make_run_env(config), policy, **options)
    envs = make_run_envs(config, policy.copies)
    return functools.partial(evaluate_vector, envs, policy, **options)


def copies_problems(value: Callable[[str], Any]) -> list[str]:
    """What cannot be done with several environments.

    Args:
        value: Gives the value of a key, unchecked; None where there is none.

    Returns:
        The mistakes, in sentences.

    >>> copies_problems({"env.copies": 3, "steps": 10}.get)
    ['steps: expected a multiple of env.copies = 3, which are stepped together, got \
10; write steps=9 or steps=12.']
    """
    copies, steps = value("env.copies"), value("steps")
    if not isinstance(copies, int) or isinstance(copies, bool) or copies < 2:
        return []
    problems = []
    if isinstance(steps, int) and (rest := steps % copies):
        fewer = steps - rest
        near = [f"steps={n}" for n in (fewer, fewer + copies) if n > 0]
        problems.append(
            f"steps: expected a multiple of env.copies = {copies}, which are stepped "
            f"together, got {steps}; write {' or '.join(near)}."
        )
    if value("train.collection") == "process":
        problems.append(
            "train.collection: expected sync, as a collecting process steps one "
            f"environment, got process with env.copies = {copies}; leave it out "
            "(env.vectorization=async steps each copy in a process), or write "
            "env.copies=1."
        )
    if value("train.acting") == "fused":
        problems.append(
            "train.acting: expected auto or eager, as fused kernels act in one "
            f"environment, got fused with env.copies = {copies}; write "
            "train.acting=auto, or env.copies=1."
        )
    return problems
