"""An episode on its way into the replay buffer, and what can be wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import NestedKey, TensorDict
from torchrl.data import ReplayBuffer

from resel_torchrl.errors import RunError
from resel_torchrl.modules import ContextEncoder

__all__ = [
    "Counters",
    "EpisodeResult",
    "another_episode",
    "check_memory",
    "check_same",
    "episode_seed",
    "flat_episode",
    "read_measures",
    "read_vector_measures",
    "store_episode",
    "too_long",
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
    """Where a collector is: steps, finished episodes, step of the episode or −1.

    >>> Counters(steps=230, episodes=1, t=30).t
    30
    """

    steps: int
    episodes: int
    t: int


def read_measures(info: Mapping[str, Any]) -> dict[str, float]:
    """What an environment measured of the episode that ended.

    Args:
        info: Of the step that ended it; the measures are under `"measures"`.

    >>> read_measures({"measures": {"success": np.float32(1)}}), read_measures({})
    ({'success': 1.0}, {})
    """
    return {k: float(value) for k, value in info.get("measures", {}).items()}


def read_vector_measures(infos: Mapping[str, Any], i: int) -> dict[str, float]:
    """The same for environment i of a Gymnasium vector environment.

    Args:
        infos: Of the step of all of them: an array per name, and under `_name` which
            of its entries are set.
        i: Number of the environment.

    >>> at = {"success": np.array([0, 1.0]), "_success": np.array([False, True])}
    >>> read_vector_measures({"measures": at}, 1), read_vector_measures({}, 0)
    ({'success': 1.0}, {})
    """
    measures = infos.get("measures", {})
    return {
        name: float(values[i])
        for name, values in measures.items()
        if not name.startswith("_") and measures[f"_{name}"][i]
    }


def episode_seed(run_seed: int, env_index: int, episode: int) -> int:
    """The seed of an episode: below 2³¹, the same for the same three numbers.

    >>> episode_seed(0, 0, 0) == episode_seed(0, 0, 0) != episode_seed(0, 0, 1)
    True
    """
    sequence = np.random.SeedSequence([run_seed, env_index, episode])
    return int(sequence.generate_state(1)[0] >> 1)


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
        memories: Memory of an encoder before each step, `[T, state_size]`, by the key
            that it reads it from.

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


def store_episode(
    replay_buffer: ReplayBuffer,
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    terminated: bool,
    truncated: bool,
    seed: int,
    memories: Mapping[NestedKey, np.ndarray] | None = None,
) -> None:
    """Hands a finished episode to the replay buffer, by one `extend`.

    Args:
        replay_buffer: Where it goes.
        observations: As for :func:`flat_episode`, and so on.
        actions: Likewise.
        rewards: Likewise.
        terminated: Likewise.
        truncated: Likewise.
        seed: Its seed, for the error.
        memories: As for :func:`flat_episode`.

    Raises:
        FloatingPointError: If a number is not finite; the buffer is left alone.

    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10))
    >>> ones = np.ones((3, 1), "f4")
    >>> store_episode(buffer, ones, ones[:2], ones[:2, 0], True, False, seed=7)
    >>> len(buffer)
    2
    """
    for name, values in (("observation", observations), ("reward", rewards)):
        if not np.isfinite(values).all():
            raise FloatingPointError(
                f"expected finite numbers from the environment, got a {name} that is "
                f"not, in the episode from seed {seed}."
            )
    replay_buffer.extend(
        flat_episode(observations, actions, rewards, terminated, truncated, memories)
    )


def check_memory(encoder: ContextEncoder) -> None:
    """Looks whether an encoder has a memory to store.

    Raises:
        ValueError: If it has none.

    >>> check_memory(ContextEncoder({"observation": 3}, "gru"))
    """
    if not encoder.state_size:
        raise ValueError(
            "expected an encoder with a memory to store, got one without (state_size "
            "0); choose a recurrent core, or store_memory=False."
        )


def too_long(horizon: int) -> RuntimeError:
    """The error of an episode that goes on past the horizon.

    >>> print(too_long(2))
    expected episodes of at most 2 steps, got a longer one; give the true horizon \
(env.horizon=NUMBER).
    """
    return RuntimeError(
        f"expected episodes of at most {horizon} steps, got a longer one; give the "
        "true horizon (env.horizon=NUMBER)."
    )


def another_episode(what: str) -> RunError:
    """The error of an episode under way that does not repeat itself on resume.

    >>> print(str(another_episode("it ended at step 3 of 5"))[:50])
    expected the episode under way to repeat itself fr
    """
    return RunError(
        "expected the episode under way to repeat itself from its seed and actions, "
        f"but {what}; the environment (or its version) is not the one of the stored "
        "run. Put that one back, or start a new run with another run_dir."
    )


def check_same(had: np.ndarray, got: np.ndarray, step: int) -> None:
    """Compares the last observation that the policy had with the replayed one.

    Not bit for bit: another machine may round otherwise.

    Args:
        had: `[observation_size]`.
        got: Likewise.
        step: Its number within the episode.

    Raises:
        RunError: If they differ.

    >>> check_same(np.zeros(2), np.zeros(2), step=4)
    """
    if not np.allclose(had, got, rtol=1e-2, atol=1e-2):
        raise another_episode(f"its observation {step} was {had} and is {got} now")
