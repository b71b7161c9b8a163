"""The filled part of a replay buffer, for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensordict import TensorDict
from torchrl.data import ReplayBuffer

__all__ = ["buffer_state", "load_buffer_state"]


def buffer_state(replay_buffer: ReplayBuffer) -> dict[str, Any]:
    """Entries written so far, the writer's place, and the sampler with its index.

    Args:
        replay_buffer: Buffer on a TensorStorage, such as LazyTensorStorage.

    >>> import torch
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000))
    >>> _ = buffer.extend(TensorDict({"a": torch.arange(3)}, [3]))
    >>> state = buffer_state(buffer)
    >>> state["entries"]["a"].tolist()
    [0, 1, 2]
    >>> other = TensorDictReplayBuffer(storage=LazyTensorStorage(1000))
    >>> load_buffer_state(other, state)
    >>> len(other), other[2]["a"].item()
    (3, 2)
    """
    filled = len(replay_buffer)
    entries: dict[str, Any] = {}
    if filled:
        stored = replay_buffer.storage.get(slice(0, filled))
        # A clone: torch.save would write the whole memory that a slice views.
        entries = {k: v.clone() for k, v in stored.flatten_keys(".").items()}
    return {
        "entries": entries,
        "size": filled,
        "writer": replay_buffer.writer.state_dict(),
        "sampler": replay_buffer.sampler.state_dict(),
    }


def load_buffer_state(replay_buffer: ReplayBuffer, state: Mapping[str, Any]) -> None:
    """Fills an empty buffer from :func:`buffer_state`.

    Args:
        replay_buffer: Buffer made with the same arguments as the one that was saved.
        state: From :func:`buffer_state`.

    >>> import torch
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> full, empty = (
    ...     TensorDictReplayBuffer(storage=LazyTensorStorage(3)) for _ in range(2)
    ... )
    >>> _ = full.extend(TensorDict({"a": torch.arange(2)}, [2]))
    >>> load_buffer_state(empty, buffer_state(full))
    >>> _ = empty.extend(TensorDict({"a": torch.tensor([7])}, [1]))
    >>> empty[:]["a"].tolist()
    [0, 1, 7]
    """
    if state["size"]:
        entries = TensorDict(dict(state["entries"]), [state["size"]])
        replay_buffer.storage.set(range(state["size"]), entries.unflatten_keys("."))
    replay_buffer.writer.load_state_dict(state["writer"])
    replay_buffer.sampler.load_state_dict(state["sampler"])
