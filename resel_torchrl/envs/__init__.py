"""Partially observed tasks, registered with Gymnasium under their own names.

After ``import resel_torchrl.envs``, ``gymnasium.make("HopperBLT-V-v0")`` works;
:func:`make_gym` and :func:`make_env` add what training needs. No simulator is imported
before an environment that needs it is made.
"""

from resel_torchrl.envs.make import TaskInfo, make_env, make_gym, task_info
from resel_torchrl.envs.meta_rl import Trial
from resel_torchrl.envs.registry import find_spec, register_tasks, task_names
from resel_torchrl.envs.vector import vectorize
from resel_torchrl.envs.wrappers import CheckEpisode, MaskObservation, ScaleAction

register_tasks()

__all__ = [
    "CheckEpisode",
    "MaskObservation",
    "ScaleAction",
    "TaskInfo",
    "Trial",
    "find_spec",
    "make_env",
    "make_gym",
    "register_tasks",
    "task_info",
    "task_names",
    "vectorize",
]
