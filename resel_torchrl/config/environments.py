"""The environments of a run: one, or several that are stepped together."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from resel_torchrl.config.curriculum import fit_problems
from resel_torchrl.config.schema import Config
from resel_torchrl.envs import TaskInfo, make_gym, task_info, vectorize
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
    "read_tasks",
    "task_problems",
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


def for_evaluation(config: Config) -> Config:
    """The configuration with `eval.kwargs` among the environment's."""
    kwargs = {**config.env.kwargs, **config.eval.kwargs}
    return dataclasses.replace(
        config, env=dataclasses.replace(config.env, kwargs=kwargs)
    )


def read_tasks(config: Config) -> tuple[TaskInfo, TaskInfo]:
    """What is to be known of the environments of training and of evaluation.

    >>> from resel_torchrl.config import compose
    >>> [task.horizon for task in read_tasks(compose(["task=pendulum_v"]))]
    [200, 200]
    """
    envs = config.env, for_evaluation(config).env
    train, test = (task_info(e.id, horizon=e.horizon, **e.kwargs) for e in envs)
    return train, test


def recorded_facts(task: TaskInfo, test: TaskInfo) -> dict[str, Any]:
    """What a run's configuration keeps of its environments, as ``env.facts``.

    Args:
        task: Of the environment of training.
        test: Of that of evaluation.

    Returns:
        The facts of training; where evaluation has another set of tasks, that is
        under ``evaluation``.

    >>> from resel_torchrl.config import compose
    >>> config = compose(["task=wind_light", "eval.kwargs.task_seed=5"])
    >>> list(recorded_facts(*read_tasks(config))["evaluation"])
    ['train_tasks', 'test_tasks']
    """
    sets = {
        name: test.facts[name]
        for name in ("train_tasks", "test_tasks")
        if name in test.facts and test.facts[name] != task.facts.get(name)
    }
    return {**task.facts, **({"evaluation": sets} if sets else {})}


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
    options = {
        "episodes": episodes,
        "seed": seed,
        "n_tasks": read_tasks(config)[1].n_tasks,
    }
    config = for_evaluation(config)
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


def task_problems(config: Config, task: TaskInfo, test: TaskInfo) -> list[str]:
    """What does not go together in a configuration and its environments.

    Args:
        config: The configuration.
        task: Of the environment of training.
        test: Of that of evaluation.

    Returns:
        The mistakes, in sentences.

    >>> from resel_torchrl.config import compose
    >>> config = compose(["task=pendulum_v"])
    >>> task_problems(config, *read_tasks(config))
    []
    """
    problems = []
    own_limit = _own_limit(config)
    if own_limit is not None and task.horizon < own_limit:
        problems.append(
            f"env.horizon: expected at least {own_limit}, the time limit of "
            f"{config.env.id}, got {task.horizon}; a shorter horizon is another task. "
            "Write env.horizon=null to take its own limit."
        )
    for name in ("observation_size", "action_size", "discrete", "measures"):
        had, got = getattr(task, name), getattr(test, name)
        if had != got:
            problems.append(
                f"eval.kwargs: expected an environment as the one of training, whose "
                f"{name} is {had}, got {got}; leave out what changes it."
            )
    problems += _overlap_problems(task.facts, test.facts)
    facts, told = config.env.facts, recorded_facts(task, test)
    if facts and facts != told:
        names = [*told, *(name for name in facts if name not in told)]
        other = [n for n in names if facts.get(n) != told.get(n)]
        problems.append(
            f"env.facts: expected what {config.env.id} tells of itself, got another "
            f"{', '.join(other)}; a new run leaves it out, and a stopped run goes on "
            "with the environment that it began with only."
        )
    return problems + fit_problems(config, task)


def _overlap_problems(
    trained: Mapping[str, Any], tested: Mapping[str, Any]
) -> list[str]:
    """Test tasks of the evaluation that are trained on.

    Args:
        trained: Facts of the environment of training.
        tested: Of that of evaluation; on training tasks it may take any.

    >>> one = {"split": "train", "train_tasks": [[1.0]], "test_tasks": [[2.0]]}
    >>> _overlap_problems(one, {**one, "split": "test"})
    []
    >>> len(_overlap_problems({**one, "split": "test"}, {**one, "split": "test"}))
    1
    """
    if tested.get("split") != "test" or "split" not in trained:
        return []
    known = trained[f"{trained['split']}_tasks"]
    both = [task for task in tested["test_tasks"] if task in known]
    if not both:
        return []
    return [
        "eval.kwargs: expected test tasks that are not trained on, got "
        f"{len(both)} of {len(tested['test_tasks'])} that are, such as {both[0]}; "
        "give n_train, n_test, task_seed and the tasks to env.kwargs alone, and train "
        "with env.kwargs.split=train. eval.kwargs.split=train evaluates on the tasks "
        "of training."
    ]


def _own_limit(config: Config) -> int | None:
    """The horizon that the environment has by itself, if it has one."""
    if config.env.horizon is None:
        return None
    try:
        return task_info(config.env.id, **config.env.kwargs).horizon
    except ValueError:
        return None
