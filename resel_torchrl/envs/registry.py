"""The tasks of this package, by name, and their registration with Gymnasium."""

from __future__ import annotations

import importlib

import gymnasium
from gymnasium.envs.registration import EnvSpec

from resel_torchrl._nearest import nearest
from resel_torchrl.envs import (
    classic_pomdp,
    delayed_catch,
    dm_control,
    dynamics,
    key_to_door,
    meta_rl,
    t_maze,
)

__all__ = ["find_spec", "register_tasks", "task_names"]

#: One module a family, with a list ``TASKS`` of Gymnasium's specs. A spec without
#: ``max_episode_steps`` is of an environment that ends its episodes itself and has an
#: attribute ``horizon``.
FAMILIES = (
    classic_pomdp,
    dynamics,
    meta_rl,
    key_to_door,
    t_maze,
    delayed_catch,
    dm_control,
)


def task_names() -> list[str]:
    """Names of the tasks that this package registers, family by family.

    Any other Gymnasium environment is a task too, see :func:`make_gym`.

    Examples:
        >>> "HopperBLT-V-v0" in task_names()
        True
    """
    return [spec.id for family in FAMILIES for spec in family.TASKS]


def register_tasks() -> None:
    """Registers every task with Gymnasium, unless its name is taken already.

    Imports no simulator: that is left to the making of an environment. Importing
    ``resel_torchrl.envs`` calls it; a second call changes nothing.

    Examples:
        >>> register_tasks()
        >>> gymnasium.spec("Pendulum-V-v0").max_episode_steps
        200
    """
    for family in FAMILIES:
        for spec in family.TASKS:
            gymnasium.registry.setdefault(spec.id, spec)


def find_spec(task: str) -> EnvSpec:
    """Finds the Gymnasium spec of a task.

    Args:
        task: a Gymnasium id, or ``"module:id"`` to import ``module`` first.

    Raises:
        ValueError: if there is no such task; the message lists the nearest names.

    Examples:
        >>> find_spec("Pendulum-V-v0").max_episode_steps
        200
        >>> find_spec("Pendulum-W-v0")
        Traceback (most recent call last):
        ...
        ValueError: unknown task 'Pendulum-W-v0'; did you mean Pendulum-V-v0, \
Pendulum-P-v0, DMC-PendulumSwingup-v0? task_names() lists the tasks of resel_torchrl; \
an environment of your own is given as 'module:id'
    """
    module, _, name = task.rpartition(":")
    if module:
        importlib.import_module(module)
    if name in gymnasium.registry:
        return gymnasium.registry[name]
    # The tasks of this package first.
    near = [*nearest(name, task_names()), *nearest(name, gymnasium.registry)]
    near = list(dict.fromkeys(near))[:3]
    did_you_mean = f"; did you mean {', '.join(near)}?" if near else "."
    raise ValueError(
        f"unknown task {task!r}{did_you_mean} task_names() lists the tasks of "
        "resel_torchrl; an environment of your own is given as 'module:id'"
    )
