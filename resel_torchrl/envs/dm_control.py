"""DeepMind Control from states: 24 tasks of dm_control's suite, horizon 1000.

``DMC-{Domain}{Task}-v0``, such as ``DMC-CheetahRun-v0`` and
``DMC-ManipulatorBringBall-v0``: the parts of the suite's observation one after another
in its own order, actions in [-1, 1], rewards in [0, 1] at every step. Nothing is drawn,
so neither a display nor an OpenGL library is needed. The suite's time limit, which is
1,000 steps for each of them, is a truncation; where a task ends an episode itself,
which none of these does, a discount of 0 makes a terminal. Physics differ between
versions of MuJoCo: a result names its own.
"""

from __future__ import annotations

import math
import sys
import warnings
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from resel_torchrl._nearest import did_you_mean
from resel_torchrl.envs._support import (
    Reset,
    Step,
    import_simulator,
    log_mujoco_warnings,
)
from resel_torchrl.envs.wrappers import ScaleAction

__all__ = ["SUITE", "TASKS", "SuiteEnv", "make"]

#: domain -> its tasks (arXiv 2405.15384, released code)
SUITE = {
    "acrobot": ("swingup",),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "run", "fetch"),
    "finger": ("spin",),
    "fish": ("swim",),
    "hopper": ("hop",),
    "humanoid": ("stand", "walk", "run"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "walker": ("stand", "walk", "run"),
}
#: Arguments of the suite that have another place here.
_ELSEWHERE = {
    "time_limit": "give horizon=, in steps (env.horizon of a configuration)",
    "random": "give reset(seed=...), from which each episode follows",
}


class SuiteEnv(gymnasium.Env):
    """An environment of dm_control's suite under Gymnasium's interface.

    ``reset(seed=s)`` starts the very episode that the suite starts with ``random=s``,
    without making the environment anew; ``reset()`` starts the next one. It has no
    pictures.

    Args:
        suite_env: from ``dm_control.suite.load``.
    """

    def __init__(self, suite_env: Any):
        self.suite_env = suite_env
        # Quadruped escape asks at each reset for the OpenGL context of its pictures,
        # and asking makes one.
        physics = suite_env.physics
        kind = type(physics)
        physics.__class__ = type(kind.__name__, (kind,), {"contexts": None})
        action = suite_env.action_spec()
        self.action_space = Box(action.minimum, action.maximum, dtype=action.dtype)
        parts = suite_env.observation_spec().values()
        size = sum(math.prod(part.shape) for part in parts)
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        """Starts an episode; the suite takes seeds below 2³²."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            self.suite_env.task.random.seed(seed)
        return _flat(self.suite_env.reset().observation), {}

    def step(self, action: np.ndarray) -> Step:
        """Makes one step, see :meth:`gymnasium.Env.step`."""
        step = self.suite_env.step(action)
        terminated = step.last() and step.discount == 0
        truncated = step.last() and not terminated
        return _flat(step.observation), step.reward, terminated, truncated, {}

    def close(self) -> None:
        """Frees the simulation."""
        self.suite_env.close()


def _flat(observation: dict[str, Any]) -> np.ndarray:
    parts = [np.ravel(part) for part in observation.values()]
    return np.concatenate(parts).astype(np.float32)


def make(domain_name: str, task_name: str, **kwargs: Any) -> gymnasium.Env:
    """Makes a task of dm_control's suite.

    Args:
        domain_name: such as ``"cheetah"``; any of the suite but ``"lqr"``, whose model
            is another one each time it is made.
        task_name: such as ``"run"``.
        **kwargs: passed to the suite's task, such as ``fully_observable=False``, with
            which a manipulator sees its arm and touch only.

    Raises:
        ValueError: from ``time_limit`` or ``random``, which have another place here,
            or a name that the suite does not have.
        ModuleNotFoundError: if dm_control is not installed.
    """
    for name in kwargs.keys() & _ELSEWHERE:
        raise ValueError(
            f"expected no {name!r} for a task of dm_control, got {kwargs[name]!r}; "
            f"{_ELSEWHERE[name]}"
        )
    suite = _suite()
    if (domain_name, task_name) not in suite.ALL_TASKS:
        known = [" ".join(names) for names in suite.ALL_TASKS]
        raise ValueError(
            f"expected a task of dm_control's suite, got {domain_name} {task_name}."
            + did_you_mean(f"{domain_name} {task_name}", known)
        )
    kwargs["time_limit"] = math.inf
    return ScaleAction(SuiteEnv(suite.load(domain_name, task_name, kwargs)))


def _suite() -> ModuleType:
    """The suite, imported without a word and without its handler of warnings."""
    import_simulator("dm_control", extra="dmc")
    mujoco = import_simulator("mujoco", extra="dmc")
    handler = mujoco.get_mju_user_warning()
    imported = "dm_control.suite" in sys.modules
    with warnings.catch_warnings():
        # It looks for a display to draw on, and GLFW warns if there is none.
        warnings.filterwarnings("ignore", module="glfw")
        suite = import_simulator("dm_control.suite", extra="dmc")
    if not imported:
        # The import puts a handler of its own in the place of any other.
        mujoco.set_mju_user_warning(handler)
    log_mujoco_warnings()
    return suite


def _title(name: str) -> str:
    return name.title().replace("_", "")


TASKS = [
    EnvSpec(
        f"DMC-{_title(domain)}{_title(task)}-v0",
        f"{__name__}:make",
        max_episode_steps=1000,
        kwargs={"domain_name": domain, "task_name": task},
    )
    for domain, tasks in SUITE.items()
    for task in tasks
]
