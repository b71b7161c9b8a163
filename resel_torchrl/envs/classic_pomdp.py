"""PyBullet locomotion with hidden dimensions: the paper's classic POMDP tasks.

``{Ant,HalfCheetah,Hopper,Walker}BLT-{F,P,V}-v0``, horizon 1000 (the "classic POMDP"
tasks of arXiv 2405.15384, with the dimensions of its released code). The Bullet
observation is

    0       height of the torso above its start
    1, 2    sine, cosine of the direction to the target
    3 - 5   velocity of the torso (x, y, z), times 0.3, in the frame of its yaw
    6, 7    roll, pitch
    8, ...  each joint: position, speed
    last    contact of each foot with the ground, one step late

with every entry clipped to [-5, 5]. F shows all of it; V shows velocities (the torso's
and the joints'); P shows the rest. Rewards, actions and ends of episodes are Bullet's
own; note that its HalfCheetah is never ended by a fall: there a fall only costs reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium

from resel_torchrl.envs._support import import_simulator, silence
from resel_torchrl.envs.wrappers import MaskObservation

__all__ = ["HORIZON", "ROBOTS", "TASKS", "kept_dimensions", "make"]

HORIZON = 1000

#: robot -> (class in pybullet_envs_gymnasium, number of joints, number of feet)
ROBOTS: dict[str, tuple[str, int, int]] = {
    "Ant": ("AntBulletEnv", 8, 4),
    "HalfCheetah": ("HalfCheetahBulletEnv", 6, 6),
    "Hopper": ("HopperBulletEnv", 3, 1),
    "Walker": ("Walker2DBulletEnv", 6, 2),
}

_POSE = (0, 1, 2, 6, 7)
_VELOCITY = (3, 4, 5)
_FIRST_JOINT = 8


def kept_dimensions(robot: str, part: Literal["F", "P", "V"]) -> tuple[int, ...]:
    """Dimensions of a robot's Bullet observation that a task shows.

    Args:
        robot: one of :data:`ROBOTS`.
        part: ``"F"`` for all, ``"P"`` for positions and contacts, ``"V"`` for
            velocities.

    Examples:
        >>> kept_dimensions("Hopper", "V")
        (3, 4, 5, 9, 11, 13)
        >>> kept_dimensions("Hopper", "P")
        (0, 1, 2, 6, 7, 8, 10, 12, 14)
    """
    _, joints, feet = ROBOTS[robot]
    first_contact = _FIRST_JOINT + 2 * joints
    if part == "F":
        return tuple(range(first_contact + feet))
    if part == "V":
        return (*_VELOCITY, *range(_FIRST_JOINT + 1, first_contact, 2))
    contacts = range(first_contact, first_contact + feet)
    return (*_POSE, *range(_FIRST_JOINT, first_contact, 2), *contacts)


def make(robot: str, kept: Sequence[int] | None = None, **kwargs: Any) -> gymnasium.Env:
    """Makes a Bullet robot that shows some dimensions of its observation.

    The robot is reset once here, from a fixed seed: Bullet saves the state of the world
    at its first reset and returns to it at every later one, where the first itself
    starts from a state that never comes back. Episodes thereby depend on their seed
    alone, to the last bit, whatever was played before and on whichever instance.

    Args:
        robot: one of :data:`ROBOTS`.
        kept: the dimensions to show; ``None`` for all.
        **kwargs: passed to the Bullet environment, such as ``render_mode``.

    Returns:
        The environment, without time limit.

    Raises:
        ModuleNotFoundError: if PyBullet is not installed.
    """
    with silence(1, 2):
        import_simulator("pybullet", extra="bullet")  # prints its build time
    module = import_simulator(
        "pybullet_envs_gymnasium.gym_locomotion_envs", extra="bullet"
    )
    env = getattr(module, ROBOTS[robot][0])(**kwargs)
    with silence(1):
        env.reset(seed=0)  # connects to the physics server, which prints its arguments
    env.seed()  # an episode of no given seed is a random one
    return MaskObservation(env, kept)


TASKS: dict[str, dict[str, Any]] = {
    f"{robot}BLT-{part}-v0": {"robot": robot, "kept": kept_dimensions(robot, part)}
    for robot in ROBOTS
    for part in ("F", "P", "V")
}
