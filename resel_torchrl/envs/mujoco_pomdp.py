"""MuJoCo robots with hidden dimensions.

``{Ant,HalfCheetah,Hopper,Humanoid,Walker2d}-{P,V}-v5``, horizon 1000: Gymnasium's -v5
robots, showing the positions (P: the ``qpos`` part of the observation) or the
velocities (V: the ``qvel`` part) of their joints, with actions in [-1, 1].

The further parts of Ant's and Humanoid's observations (``cinert``, ``cvel``,
``qfrc_actuator``, ``cfrc_ext``) belong to neither task: body velocities and forces
would tell a P agent what P hides, and inertias about the centre of mass are positions
under another name. The parts come from the environment's own ``observation_structure``,
so other options of the robot (``exclude_current_positions_from_observation=False``)
shift them rightly. Physics differ between versions of MuJoCo: a result names its own.
"""

from __future__ import annotations

import logging
from itertools import accumulate
from typing import Any, Literal

import gymnasium
from gymnasium.envs.registration import load_env_creator

from resel_torchrl.envs._support import import_simulator
from resel_torchrl.envs.wrappers import MaskObservation, ScaleAction

__all__ = [
    "HORIZON",
    "PARTS",
    "ROBOTS",
    "TASKS",
    "log_warnings",
    "make",
    "make_robot",
    "part_slice",
]

HORIZON = 1000
ROBOTS = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "Walker2d")
#: part of a task -> part of ``observation_structure``
PARTS = {"P": "qpos", "V": "qvel"}

_logger = logging.getLogger(__name__)


def _log(message: str) -> None:
    # A deprecated attribute in a robot's model is nothing a user could act on.
    level = logging.DEBUG if "deprecated" in message else logging.WARNING
    _logger.log(level, "MuJoCo: %s", message)


def log_warnings() -> None:
    """Sends MuJoCo's warnings to Python's logging.

    Left to itself MuJoCo prints them and writes ``MUJOCO_LOG.TXT`` into the working
    directory. A handler that somebody else has installed stays. Heed a warning of an
    unstable simulation: MuJoCo meets it by putting the robot back to its initial state
    in the midst of the episode, where no number is NaN.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
    """
    mujoco = import_simulator("mujoco", extra="mujoco")
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_log)


def part_slice(structure: dict[str, int], part: str) -> slice:
    """Where a part of a MuJoCo robot's observation lies.

    Args:
        structure: the robot's ``observation_structure``: sizes of the parts in their
            order; ``skipped_...`` entries are no part of the observation.
        part: name of the part.

    Examples:
        >>> part_slice({"skipped_qpos": 1, "qpos": 5, "qvel": 6}, "qvel")
        slice(5, 11, None)
    """
    sizes = {k: v for k, v in structure.items() if not k.startswith("skipped")}
    ends = dict(zip(sizes, accumulate(sizes.values()), strict=True))
    return slice(ends[part] - sizes[part], ends[part])


def make_robot(robot: str, **kwargs: Any) -> gymnasium.Env:
    """Makes a MuJoCo robot as Gymnasium has it, its warnings sent to logging.

    Args:
        robot: one of :data:`ROBOTS`.
        **kwargs: passed to the robot, such as ``render_mode``.

    Returns:
        The robot of version -v5, without a wrapper.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
        ValueError: if there is no such robot.
    """
    if robot not in ROBOTS:
        raise ValueError(f"expected a robot out of {', '.join(ROBOTS)}, got {robot!r}")
    log_warnings()
    import_simulator("gymnasium.envs.mujoco", extra="mujoco")
    spec = gymnasium.spec(f"{robot}-v5")
    return load_env_creator(spec.entry_point)(**{**spec.kwargs, **kwargs})


def make(robot: str, part: Literal["P", "V"], **kwargs: Any) -> gymnasium.Env:
    """Makes a MuJoCo robot that shows positions or velocities only.

    Args:
        robot: one of :data:`ROBOTS`.
        part: ``"P"`` or ``"V"``.
        **kwargs: passed to the robot, such as ``render_mode``.

    Returns:
        The environment, without time limit.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
    """
    env = make_robot(robot, **kwargs)
    shown = part_slice(env.observation_structure, PARTS[part])
    env = MaskObservation(env, range(shown.start, shown.stop))
    return ScaleAction(env)


TASKS: dict[str, dict[str, Any]] = {
    f"{robot}-{part}-v5": {"robot": robot, "part": part}
    for robot in ROBOTS
    for part in PARTS
}
