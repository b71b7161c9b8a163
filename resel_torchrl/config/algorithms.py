"""What the algorithms need of a task, and the values that are left to them."""

from __future__ import annotations

import dataclasses
from typing import Any

from resel_torchrl.config.schema import Config
from resel_torchrl.config.validation import ConfigError
from resel_torchrl.envs import TaskInfo
from resel_torchrl.modules import CORES, FusedStep
from resel_torchrl.training import Agent, make_loss
from resel_torchrl.training.agent import Loss

__all__ = [
    "DEFAULTS",
    "acting_problems",
    "algorithm_problems",
    "loss_of",
    "resolve_algorithm",
]

AUTO = "auto"
#: What `auto` is, by algorithm; a value that is not listed is not the algorithm's.
DEFAULTS: dict[str, dict[str, Any]] = {
    "resel": {
        "train.alpha_init": 1.0,
        "train.fixed_alpha": False,
        "train.target_entropy": AUTO,
    },
    "discrete_resel": {
        "agent.probability_floor": 0.01,
        "train.alpha_init": 0.2,
        "train.fixed_alpha": True,
        "train.target_entropy": AUTO,
    },
    "td3_resel": {
        "agent.exploration_noise": 0.1,
        "train.target_noise": 0.04,
        "train.target_noise_clip": 0.12,
    },
}
OPTIONS = sorted({key for values in DEFAULTS.values() for key in values})


def resolve_algorithm(config: Config, *, discrete: bool) -> Config:
    """The configuration with the algorithm's own values where it says `auto`.

    So is `train.acting`, by the core, the packages that are there, and the number of
    environments that are stepped together.

    Args:
        config: With `agent.algorithm` a name or `auto`, which goes by the actions.
        discrete: Whether the task's actions are discrete.

    Raises:
        ConfigError: Listing each value that the algorithm has no use for.

    >>> from resel_torchrl.config import compose
    >>> config = resolve_algorithm(compose(["task=cartpole_p"]), discrete=True)
    >>> config.agent.algorithm, config.train.alpha_init, config.train.fixed_alpha
    ('discrete_resel', 0.2, True)
    """
    name = config.agent.algorithm
    if name == AUTO:
        name = "discrete_resel" if discrete else "resel"
    groups: dict[str, dict[str, Any]] = {
        "agent": {"algorithm": name},
        "train": {"acting": _acting(config)},
    }
    problems = []
    for key in OPTIONS:
        group, _, option = key.partition(".")
        given = getattr(getattr(config, group), option)
        if given == AUTO:
            groups[group][option] = DEFAULTS[name].get(key, AUTO)
        elif key not in DEFAULTS[name]:
            takers = [other for other, values in DEFAULTS.items() if key in values]
            problems.append(
                f"{key}: expected auto, as {name} has no such value, got {given!r}; "
                f"write {key}=auto, or choose agent.algorithm={' or '.join(takers)}."
            )
    resolved = dataclasses.replace(
        config,
        **{
            group: dataclasses.replace(getattr(config, group), **values)
            for group, values in groups.items()
        },
    )
    entropy = resolved.train.target_entropy
    if resolved.train.fixed_alpha is True and entropy != AUTO:
        problems.append(
            "train.target_entropy: expected auto, as a fixed temperature aims at none, "
            f"got {entropy}; write train.target_entropy=auto, or "
            "train.fixed_alpha=false."
        )
    if problems:
        raise ConfigError(problems)
    return resolved


def _acting(config: Config) -> str:
    if config.train.acting != AUTO:
        return config.train.acting
    if config.env.copies > 1:
        return "eager"
    obstacle = FusedStep.core_obstacle(CORES[config.agent.core])
    return "eager" if obstacle else "fused"


def acting_problems(config: Config) -> list[str]:
    """Why the policy cannot act as configured, if it cannot."""
    if config.train.acting != "fused":
        return []
    obstacle = FusedStep.core_obstacle(CORES[config.agent.core])
    if not obstacle:
        return []
    return [
        f"train.acting: with core={config.agent.core} {obstacle} Write "
        "train.acting=auto."
    ]


def algorithm_problems(config: Config, task: TaskInfo) -> list[str]:
    """Why the algorithm cannot be trained on the task, if it cannot."""
    name = config.agent.algorithm
    takes_discrete = name == "discrete_resel"
    if name == AUTO or takes_discrete == task.discrete:
        return []
    kinds = {True: "discrete", False: "continuous"}
    fitting = "discrete_resel" if task.discrete else "resel (or td3_resel)"
    return [
        f"agent.algorithm: expected one for {kinds[task.discrete]} actions, which "
        f"{config.env.id} has, got {name}, which needs {kinds[takes_discrete]} ones; "
        f"choose agent.algorithm={fitting}, or another task."
    ]


def loss_of(config: Config, agent: Agent) -> Loss:
    """The loss of a resolved configuration on the agent's networks."""
    settings = config.train
    options: dict[str, Any] = {
        "critic_subset_size": settings.critic_subset_size,
        "target_bound": settings.target_bound,
    }
    for key in DEFAULTS[agent.algorithm]:
        group, _, option = key.partition(".")
        if group == "train":
            options[option] = getattr(settings, option)
    return make_loss(agent, gamma=settings.gamma, **options)
