"""Classic control with hidden dimensions: light tasks for a laptop.

``Pendulum-{P,V}-v0`` (P: cosine and sine of the angle; V: angular speed) with torques
in [-1, 1], and ``CartPole-{P,V}-v0`` (P: position and angle; V: their speeds) with two
discrete actions; horizon 200.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv
from gymnasium.spaces import Box

from resel_torchrl.envs.wrappers import MaskObservation, ScaleAction

__all__ = ["HORIZON", "TASKS", "make"]

HORIZON = 200

_SYSTEMS = {"Pendulum": PendulumEnv, "CartPole": CartPoleEnv}


def make(
    system: str, kept: Sequence[int] | None = None, **kwargs: Any
) -> gymnasium.Env:
    """Makes a classic control system that shows some of its observation.

    Args:
        system: ``"Pendulum"`` or ``"CartPole"``.
        kept: the dimensions to show; ``None`` for all.
        **kwargs: passed to Gymnasium's environment, such as ``g`` or ``render_mode``.

    Returns:
        The environment, without time limit.

    Examples:
        >>> env = make("Pendulum", kept=(2,))
        >>> env.observation_space.shape, env.action_space.high
        ((1,), array([1.], dtype=float32))
    """
    env = MaskObservation(_SYSTEMS[system](**kwargs), kept)
    return ScaleAction(env) if isinstance(env.action_space, Box) else env


TASKS: dict[str, dict[str, Any]] = {
    "Pendulum-P-v0": {"system": "Pendulum", "kept": (0, 1)},
    "Pendulum-V-v0": {"system": "Pendulum", "kept": (2,)},
    "CartPole-P-v0": {"system": "CartPole", "kept": (0, 2)},
    "CartPole-V-v0": {"system": "CartPole", "kept": (1, 3)},
}
