"""An episode: its seed, its arrays while it is under way, its flat TensorDict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import NestedKey, TensorDict

from resel_torchrl.collect.acting import RecurrentPolicy

__all__ = [
    "Counters",
    "EpisodeResult",
    "episode_arrays",
    "episode_seed",
    "episodes_under_way",
    "flat_episode",
    "read_measures",
]


@dataclass(frozen=True)
class EpisodeResult:
    """A finished episode: its undiscounted, unscaled return and its length.

    `measures` is what the environment measures it by beside the return, such as
    `{"success": 1.0}`.

    >>> EpisodeResult(episode_return=-310.5, length=200).length
    200
    """

    episode_return: float
    length: int
    measures: dict[str, float] = field(default_factory=dict)


class Counters(NamedTuple):
    """Where a collector is.

    `steps` are those of all N environments; `episodes` and `t` are tuples over
    environments: finished (or given up) episodes, and the step of the one under way, −1
    between two episodes.
    """

    steps: int
    episodes: tuple[int, ...]
    t: tuple[int, ...]

    def in_random_phase(self, random_steps: int) -> bool:
        """Whether an episode under way, or the next one, began in the random phase."""
        return self.steps - len(self.t) * max(0, *self.t) < random_steps


def read_measures(info: Mapping[str, Any], name: str = "measures") -> dict[str, float]:
    """What an info says of the episode under `"measures"`, or of its `"task"`."""
    return {k: float(value) for k, value in info.get(name, {}).items()}


def episode_seed(run_seed: int, env_index: int, episode: int) -> int:
    """The seed of an episode: below 2³¹, the same for the same three numbers.

    >>> episode_seed(0, 0, 0) == episode_seed(0, 0, 0) != episode_seed(0, 0, 1)
    True
    """
    sequence = np.random.SeedSequence([run_seed, env_index, episode])
    return int(sequence.generate_state(1)[0] >> 1)


def episode_arrays(
    policy: RecurrentPolicy, horizon: int, *, store_memory: bool, shared: bool = False
) -> dict[str, torch.Tensor]:
    """Room for an episode of each of a policy's environments.

    Args:
        policy: Acts in them.
        horizon: Longest episode, in steps.
        store_memory: Whether there is room for hidden states.
        shared: Whether other processes are to see it.

    Returns:
        `observations [N, horizon + 1, O]`, `actions [N, horizon, A]`, `rewards [N,
        horizon]` and with `store_memory` `memories [N, horizon, S]`, the hidden state
        before each step.

    Raises:
        ValueError: If the encoder has no hidden state to store.
    """
    sizes = {
        "observations": (horizon + 1, policy.observation_size),
        "actions": (horizon, policy.action_size),
        "rewards": (horizon,),
    }
    if store_memory:
        sizes["memories"] = (horizon, policy.encoder.state_size)
        if not policy.encoder.state_size:
            raise ValueError(
                "expected an encoder with a memory to store, got one without "
                "(state_size 0); choose a recurrent core, or store_memory=False."
            )
    arrays = {k: torch.zeros(policy.num_envs, *size) for k, size in sizes.items()}
    if shared:
        for array in arrays.values():
            array.share_memory_()
    return arrays


def episodes_under_way(
    arrays: Mapping[str, torch.Tensor], counters: Counters, seed: int, env_index: int
) -> dict[str, np.ndarray]:
    """What there is of the episodes under way.

    Returns:
        `seed`, `length`, `observations`, `actions`, `rewards`; of several environments
        a row for each, with zeros after its end.
    """
    lengths = [max(t, 0) for t in counters.t]
    found = {
        "seed": np.array(
            [
                episode_seed(seed, env_index + i, number)
                for i, number in enumerate(counters.episodes)
            ]
        ),
        "length": np.array(lengths),
    }
    for name, extra in (("observations", 1), ("actions", 0), ("rewards", 0)):
        part = found[name] = arrays[name][:, : max(lengths) + extra].numpy().copy()
        for i, length in enumerate(lengths):
            part[i, length + extra :] = 0.0
    return {k: x[0] for k, x in found.items()} if len(lengths) == 1 else found


def flat_episode(
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    terminated: bool,
    truncated: bool,
    memories: Mapping[NestedKey, np.ndarray] | None = None,
) -> TensorDict:
    """One episode of T transitions as a flat TensorDict `[T]`, ready for `extend`.

    Args:
        observations: `[T + 1, observation_size]`.
        actions: `[T, action_size]`, one-hot if discrete.
        rewards: `[T]`.
        terminated: Whether the last transition reached a terminal state.
        truncated: Whether the last transition met a limit; values bootstrap there.
        memories: Hidden state of an encoder before each step, `[T, state_size]`, by the
            key that it reads it from.

    >>> import numpy as np
    >>> flat = flat_episode(
    ...     np.zeros((3, 4)), np.zeros((2, 1)), np.ones(2), False, True
    ... )
    >>> flat["next", "done"].flatten().tolist()
    [False, True]
    >>> flat["next", "terminated"].any().item()
    False
    """
    length = len(actions)
    ends = torch.zeros(3, length, 1, dtype=torch.bool)
    ends[:, -1, 0] = torch.tensor([terminated or truncated, terminated, truncated])
    is_init = torch.zeros(length, 1, dtype=torch.bool)
    is_init[0] = True
    observation = torch.from_numpy(observations)
    return TensorDict(
        {
            "observation": observation[:-1],
            "action": torch.from_numpy(actions),
            "is_init": is_init,
            ("next", "observation"): observation[1:],
            ("next", "reward"): torch.from_numpy(rewards).unsqueeze(-1),
            ("next", "done"): ends[0],
            ("next", "terminated"): ends[1],
            ("next", "truncated"): ends[2],
            **{key: torch.from_numpy(x) for key, x in (memories or {}).items()},
        },
        [length],
    )
