"""The curriculum of a run: made, and held against its configuration and task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from resel_torchrl.config.schema import Config
from resel_torchrl.envs import TaskInfo, make_gym
from resel_torchrl.training import Curriculum
from resel_torchrl.training.curriculum import level_problems, schedule_problems

__all__ = ["curriculum_problems", "fit_problems", "make_curriculum"]


def make_curriculum(config: Config) -> Curriculum | None:
    """The curriculum, if there is one.

    >>> from resel_torchrl.config import compose
    >>> make_curriculum(compose(["task=pendulum_v"])) is None
    True
    """
    options = dataclasses.asdict(config.curriculum)
    option, values = options.pop("option"), options.pop("values")
    return None if option is None else Curriculum(option, values, **options)


def curriculum_problems(value: Callable[[str], Any]) -> list[str]:
    """What is wrong with a curriculum beside the types of its values.

    Args:
        value: Gives the value of a key, unchecked; None where there is none.

    Returns:
        The mistakes, in sentences.

    >>> keys = {"curriculum.option": "frames", "curriculum.values": []}
    >>> curriculum_problems(keys.get)
    ['curriculum.values: expected one value or more, got none; write \
curriculum.values=[...], or curriculum.option=null for no curriculum.']
    """
    values, steps = value("curriculum.values"), value("curriculum.at_steps")
    absent = value("curriculum.option") is None
    if not _are(values, int, float) or (absent and not values and steps is None):
        return []
    found, problems = [], []
    if steps is None or _are(steps, int):
        found += schedule_problems(values, steps)
    measure, level = value("curriculum.measure"), value("curriculum.level")
    if steps is None and isinstance(level, int | float):
        found += level_problems(measure, level)
    for problem in found:
        name = problem.partition(":")[0]
        form = "NUMBER" if name == "level" else "[...]"
        none = (
            "leave it out: curriculum.option is null"
            if absent
            else "curriculum.option=null"
        )
        problems.append(
            f"curriculum.{problem}; write curriculum.{name}={form}, or {none} for no "
            "curriculum."
        )
    if absent:
        return problems
    copies = value("env.copies")
    if isinstance(copies, int) and copies > 1:
        problems.append(
            "curriculum.option: expected null with several environments, whose "
            f"episodes begin at different steps, got env.copies = {copies}; write "
            "env.copies=1, or curriculum.option=null."
        )
    return problems


def fit_problems(config: Config, task: TaskInfo) -> list[str]:
    """What does not go together in a curriculum and the environment of training.

    Args:
        config: The configuration.
        task: Of that environment.

    Returns:
        The mistakes, in sentences.

    >>> from resel_torchrl.config import compose
    >>> from resel_torchrl.config.environments import read_tasks
    >>> config = compose(["task=tmaze_passive", "curriculum.values=[5,10,20,35,40]"])
    >>> fit_problems(config, read_tasks(config)[0])
    ['curriculum.values: expected the last one to be the length of the whole task, 50, \
got 40; write curriculum.values=[...,50], or curriculum.option=null.']
    """
    option = config.curriculum.option
    if option is None:
        return []
    if option not in task.curriculum_options:
        known = ", ".join(task.curriculum_options) or "none"
        return [
            f"curriculum.option: expected an option that {config.env.id} takes at its "
            f"reset (it takes {known}), got {option!r}; write curriculum.option=null "
            "for no curriculum.",
        ]
    problems = []
    env = make_gym(config.env.id, horizon=config.env.horizon, **config.env.kwargs)
    for value in config.curriculum.values:
        try:
            env.reset(seed=0, options={option: value})
        except (ValueError, TypeError, LookupError) as error:
            problems.append(f"curriculum.values: {value} cannot be used: {error}.")
    whole = env.get_wrapper_attr(option) if env.has_wrapper_attr(option) else None
    env.close()
    if whole is not None and config.curriculum.values[-1] != whole:
        problems.append(
            f"curriculum.values: expected the last one to be the {option} of the whole "
            f"task, {whole}, got {config.curriculum.values[-1]}; write "
            f"curriculum.values=[...,{whole}], or curriculum.option=null."
        )
    rule = config.curriculum
    if rule.at_steps is None and rule.measure not in task.measures:
        problems.append(
            f"curriculum.measure: expected one that {config.env.id} measures "
            f"({', '.join(task.measures) or 'none'}), got "
            f"{rule.measure!r}; write curriculum.at_steps=[...] for a "
            "schedule by steps."
        )
    return problems


def _are(values: Any, *types: type) -> bool:
    return isinstance(values, Sequence) and all(type(v) in types for v in values)
