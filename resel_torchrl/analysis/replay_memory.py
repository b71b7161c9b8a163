"""How much memory a full replay buffer takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from resel_torchrl.analysis.measurements import Measurement
from resel_torchrl.analysis.timing import at_least_one
from resel_torchrl.replay import EpisodeSampler
from resel_torchrl.training import flat_episode

__all__ = ["replay_memory"]


def replay_memory(
    stored: Sequence[int] = (1_000_000,),
    lengths: Sequence[int] = (1000,),
    *,
    observation_size: int = 9,
    action_size: int = 6,
) -> list[Measurement]:
    """Memory of buffers filled as training fills them: every entry, and the index.

    The default sizes are those of WalkerBLT-V.

    Args:
        stored: Numbers of transitions; rounded down to whole episodes.
        lengths: Lengths of the episodes.
        observation_size: Entries of an observation.
        action_size: Entries of an action.

    Returns:
        A row in MB (10⁶ bytes) for each number of transitions and each length.

    Raises:
        ValueError: If a number is below 1 or no whole episode is stored.

    >>> [row] = replay_memory([1000], [100])
    >>> row.case, row.unit, row.median < 0.12
    ('1,000 stored, episodes of 100, 9 observations and 6 actions', 'MB', True)
    """
    at_least_one(observation_size=observation_size, action_size=action_size)
    rows = []
    for length in lengths:
        at_least_one(length=length)
        for count in stored:
            at_least_one(stored=count // length)
            total = count // length * length
            size = _buffer_bytes(total, length, observation_size, action_size)
            rows.append(
                Measurement.of(
                    [size / 1e6],
                    benchmark="replay",
                    case=f"{total:,} stored, episodes of {length}, "
                    f"{observation_size} observations and {action_size} actions",
                    quantity="memory",
                    unit="MB",
                    threads=torch.get_num_threads(),
                )
            )
    return rows


def _buffer_bytes(
    total: int, length: int, observation_size: int, action_size: int
) -> int:
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(total), sampler=EpisodeSampler(seed=0), batch_size=1
    )
    episode = flat_episode(
        np.zeros((length + 1, observation_size), "f4"),
        np.zeros((length, action_size), "f4"),
        np.zeros(length, "f4"),
        terminated=False,
        truncated=True,
    )
    buffer.extend(episode.repeat(total // length))
    buffer.sample()  # which reads the index
    entries = buffer.storage.get(slice(0, total)).values(True, True)
    index = buffer.sampler.state_dict()["index"]["episodes"].values()
    return sum(
        value.numel() * value.element_size()
        for value in (*entries, *index)
        if isinstance(value, torch.Tensor)
    )
