"""One environment or several behind one interface, addressed by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

__all__ = ["EnvBatch", "batched"]

Start = tuple[int, dict[str, Any] | None]  # seed and options of a reset
Steps = tuple[Sequence, Sequence, Sequence, Sequence, Any]


class EnvBatch:
    """One Gymnasium environment as a batch of one, without a vector's copies.

    Its values come in lists of length 1.
    """

    num_envs = 1

    def __init__(self, env: gymnasium.Env) -> None:
        self.env = env

    def reset(self, starts: Mapping[int, Start]) -> dict[int, tuple[Any, dict]]:
        """Begins episodes, each by its seed and options; by number, what came of it."""
        seed, options = starts[0]
        return {0: self.env.reset(seed=seed, options=options)}

    def step(self, actions: Sequence) -> Steps:
        """Steps all; observations, rewards, terminated, truncated, infos."""
        action = actions[0]
        if isinstance(action, np.integer):
            action = int(action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        return [observation], [reward], [terminated], [truncated], info

    def info(self, infos: dict[str, Any], i: int) -> dict[str, Any]:
        """The info of environment `i` out of those of :meth:`step`."""
        return infos


class _VectorBatch(EnvBatch):
    """A Gymnasium vector environment whose episodes begin one by one."""

    def __init__(self, env: VectorEnv) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.DISABLED:
            raise ValueError(
                "expected environments with AutoresetMode.DISABLED, as their episodes "
                f"get their seeds here, got {mode}; make them with "
                "resel_torchrl.envs.vectorize."
            )
        self.env = env
        self.num_envs = env.num_envs

    def reset(self, starts: Mapping[int, Start]) -> dict[int, tuple[Any, dict]]:
        all_options = [options for _, options in starts.values()]
        if all(options == all_options[0] for options in all_options):
            return self._reset(starts, all_options[0])
        found = self._reset(starts, None)  # Gymnasium's first reset is to be of all
        for i, (seed, options) in starts.items():
            found |= self._reset({i: (seed, options)}, options)
        return found

    def _reset(
        self, starts: Mapping[int, Start], options: dict[str, Any] | None
    ) -> dict[int, tuple[Any, dict]]:
        mask = np.isin(np.arange(self.num_envs), list(starts))
        seeds = [starts[i][0] if i in starts else None for i in range(self.num_envs)]
        observations, infos = self.env.reset(
            seed=seeds, options={**(options or {}), "reset_mask": mask}
        )
        return {i: (observations[i], self.info(infos, i)) for i in starts}

    def step(self, actions: Sequence) -> Steps:
        return self.env.step(actions)

    def info(self, infos: dict[str, Any], i: int) -> dict[str, Any]:
        """Of arrays over environments, entry `i` where the mask `_name` is set."""
        return {
            name: self.info(values, i) if isinstance(values, Mapping) else values[i]
            for name, values in infos.items()
            if f"_{name}" in infos and infos[f"_{name}"][i]
        }


def batched(env: gymnasium.Env | VectorEnv) -> EnvBatch:
    """The environments as a batch.

    Raises:
        ValueError: From vector environments that reset themselves.
    """
    return _VectorBatch(env) if isinstance(env, VectorEnv) else EnvBatch(env)
