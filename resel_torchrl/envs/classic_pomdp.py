"""Robots, a pendulum and a cart-pole of which positions or velocities are hidden.

P shows positions, V velocities, F everything. Rewards and ends of episodes are those of
the simulator; actions lie in [-1, 1], those of CartPole are 0 and 1.

``{Ant,HalfCheetah,Hopper,Walker}BLT-{F,P,V}-v0``, horizon 1000: PyBullet's robots, the
"classic POMDP" tasks of arXiv 2405.15384, with the dimensions of its released code. The
Bullet observation, every entry clipped to [-5, 5], is

    0       P  height of the torso above its start
    1, 2    P  sine, cosine of the direction to the target
    3 - 5   V  velocity of the torso (x, y, z), times 0.3, in the frame of its yaw
    6, 7    P  roll, pitch
    8, ...     each joint: position (P), speed (V)
    last    P  contact of each foot with the ground, one step late

Bullet's HalfCheetah is never ended by a fall: there a fall only costs reward.

``Pendulum-{P,V}-v0`` (P: cosine and sine of the angle; V: angular speed) and
``CartPole-{P,V}-v0`` (P: position and angle; V: their speeds), horizon 200.

``{Ant,HalfCheetah,Hopper,Humanoid,Walker2d}-{P,V}-v5``, horizon 1000: Gymnasium's
MuJoCo robots, showing the ``qpos`` (P) or the ``qvel`` part (V) of their observation.
The further parts of Ant's and Humanoid's (``cinert``, ``cvel``, ``qfrc_actuator``,
``cfrc_ext``) belong to neither: body velocities and forces would tell a P agent what P
hides, and inertias about the centre of mass are positions under another name. Physics
differ between versions of MuJoCo: a result names its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from resel_torchrl.envs._support import (
    MUJOCO_ROBOTS,
    import_simulator,
    make_mujoco_robot,
    silence,
)
from resel_torchrl.envs.wrappers import MaskObservation, ScaleAction

__all__ = [
    "BULLET_ROBOTS",
    "TASKS",
    "kept_dimensions",
    "make_bullet",
    "make_control",
    "make_mujoco",
]

#: robot -> (class in pybullet_envs_gymnasium, number of joints, number of feet)
BULLET_ROBOTS: dict[str, tuple[str, int, int]] = {
    "Ant": ("AntBulletEnv", 8, 4),
    "HalfCheetah": ("HalfCheetahBulletEnv", 6, 6),
    "Hopper": ("HopperBulletEnv", 3, 1),
    "Walker": ("Walker2DBulletEnv", 6, 2),
}


def kept_dimensions(robot: str, part: Literal["F", "P", "V"]) -> tuple[int, ...]:
    """Dimensions of a Bullet robot's observation that a task shows.

    Examples:
        >>> kept_dimensions("Hopper", "V")
        (3, 4, 5, 9, 11, 13)
        >>> kept_dimensions("Hopper", "P")
        (0, 1, 2, 6, 7, 8, 10, 12, 14)
    """
    _, joints, feet = BULLET_ROBOTS[robot]
    contacts = 8 + 2 * joints
    if part == "F":
        return tuple(range(contacts + feet))
    if part == "V":
        return (3, 4, 5, *range(9, contacts, 2))
    return (0, 1, 2, 6, 7, *range(8, contacts, 2), *range(contacts, contacts + feet))


def make_bullet(
    robot: str, kept: Sequence[int] | None = None, **kwargs: Any
) -> gymnasium.Env:
    """Makes a Bullet robot that shows some dimensions of its observation.

    Episodes depend on their seed alone, to the last bit, whatever was played before and
    on whichever instance.

    Args:
        robot: one of :data:`BULLET_ROBOTS`.
        kept: the dimensions to show; ``None`` for all.
        **kwargs: passed to the Bullet environment, such as ``render_mode``.

    Raises:
        ModuleNotFoundError: if PyBullet is not installed.
    """
    with silence(1, 2):
        import_simulator("pybullet", extra="bullet")  # prints its build time
    module = import_simulator(
        "pybullet_envs_gymnasium.gym_locomotion_envs", extra="bullet"
    )
    env = getattr(module, BULLET_ROBOTS[robot][0])(**kwargs)
    # Bullet saves the state of the world at its first reset and returns to it at every
    # later one; the first itself starts from a state that never comes back.
    with silence(1):
        env.reset(seed=0)  # connects to the physics server, which prints its arguments
    env.seed()  # an episode of no given seed is a random one
    return MaskObservation(env, kept)


def make_control(
    system: Literal["Pendulum", "CartPole"],
    kept: Sequence[int] | None = None,
    **kwargs: Any,
) -> gymnasium.Env:
    """Makes a system of classic control that shows some of its observation.

    Args:
        system: which one.
        kept: the dimensions to show; ``None`` for all.
        **kwargs: passed to Gymnasium's environment, such as ``g`` or ``render_mode``.
    """
    make = {"Pendulum": PendulumEnv, "CartPole": CartPoleEnv}[system]
    env = MaskObservation(make(**kwargs), kept)
    return ScaleAction(env) if isinstance(env.action_space, Box) else env


def make_mujoco(robot: str, part: Literal["P", "V"], **kwargs: Any) -> gymnasium.Env:
    """Makes a MuJoCo robot that shows positions or velocities only.

    Args:
        robot: one of Gymnasium's -v5 robots.
        part: ``"P"`` or ``"V"``.
        **kwargs: passed to the robot, such as ``render_mode``; those that change its
            observation shift the dimensions that are shown.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
        ValueError: if there is no such robot.
    """
    env = make_mujoco_robot(robot, **kwargs)
    structure = env.observation_structure
    sizes = {k: n for k, n in structure.items() if not k.startswith("skipped")}
    ends = dict(zip(sizes, accumulate(sizes.values()), strict=True))
    name = {"P": "qpos", "V": "qvel"}[part]
    kept = range(ends[name] - sizes[name], ends[name])
    return ScaleAction(MaskObservation(env, kept))


TASKS = [
    *(
        EnvSpec(
            f"{robot}BLT-{part}-v0",
            f"{__name__}:make_bullet",
            max_episode_steps=1000,
            kwargs={"robot": robot, "kept": kept_dimensions(robot, part)},
        )
        for robot in BULLET_ROBOTS
        for part in ("F", "P", "V")
    ),
    *(
        EnvSpec(
            f"{system}-{part}-v0",
            f"{__name__}:make_control",
            max_episode_steps=200,
            kwargs={"system": system, "kept": kept},
        )
        for system, part, kept in (
            ("Pendulum", "P", (0, 1)),
            ("Pendulum", "V", (2,)),
            ("CartPole", "P", (0, 2)),
            ("CartPole", "V", (1, 3)),
        )
    ),
    *(
        EnvSpec(
            f"{robot}-{part}-v5",
            f"{__name__}:make_mujoco",
            max_episode_steps=1000,
            kwargs={"robot": robot, "part": part},
        )
        for robot in MUJOCO_ROBOTS
        for part in ("P", "V")
    ),
]
