"""How long a batch takes to draw, and how much memory a replay buffer takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tensordict import TensorDict
from torch.utils.benchmark import set_torch_threads
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer

from recipes.benchmark.measurement import Measurement, at_least_one, seconds_of
from recipes.benchmark.synthetic import flat_episodes
from resel_torchrl._random import untouched_generators
from resel_torchrl.collect import flat_episode
from resel_torchrl.replay import EpisodeSampler, pack_episodes, row_layout


def time_replay(
    stored: Sequence[int] = (100_000, 1_000_000),
    lengths: Sequence[int] = (20, 1000),
    *,
    batch_size: int = 2000,
    observation_size: int = 9,
    action_size: int = 6,
    repetitions: int = 100,
    threads: int = 1,
) -> list[Measurement]:
    """Time drawing a batch from a filled buffer, beside TorchRL's own sampler, in ms.

    Four rows for each number of stored transitions and each length of the episodes:
    `EpisodeSampler` alone (with reading the batch out of the storage), the same with
    `pack_episodes`, TorchRL's `SliceSampler` alone with slices of whole episodes, and
    that with `cache_values=True`, which TorchRL means for data sets that are not
    written any more. The default sizes are those of WalkerBLT-V; batches are rounded up
    to whole episodes, what is stored is rounded down.

    Raises:
        ValueError: If a number is below 1 or fewer transitions than a batch are stored.
    """
    at_least_one(batch_size=batch_size, repetitions=repetitions, threads=threads)
    at_least_one(observation_size=observation_size, action_size=action_size)
    for length in lengths:
        at_least_one(length=length)
        for count in stored:
            batch = -(-batch_size // length) * length
            if count // length * length < batch:
                raise ValueError(
                    f"stored: expected room for a batch of {batch} transitions in "
                    f"episodes of {length}, got {count}; store more."
                )
    sizes = observation_size, action_size
    rows = []
    with untouched_generators(), set_torch_threads(threads):
        torch.manual_seed(0)
        for count in stored:
            for length in lengths:
                flat = flat_episodes(count // length, length, *sizes)
                slices = -(-batch_size // length)
                for quantity, call in _draws(flat, length, slices, batch_size).items():
                    seconds = seconds_of(call, repetitions)
                    row = Measurement.of(
                        [1000 * s for s in seconds],
                        benchmark="replay",
                        case=f"{len(flat):,} stored, episodes of {length}, "
                        f"batch of {slices * length}",
                        quantity=quantity,
                        unit="ms",
                        threads=threads,
                    )
                    rows.append(row)
    return rows


def replay_memory(
    stored: Sequence[int] = (1_000_000,),
    lengths: Sequence[int] = (1000,),
    *,
    observation_size: int = 9,
    action_size: int = 6,
) -> list[Measurement]:
    """Memory of buffers filled as training fills them, every entry and the index.

    A row in MB (10⁶ bytes) for each number of transitions (rounded down to whole
    episodes) and each length. The default sizes are those of WalkerBLT-V.

    Raises:
        ValueError: If a number is below 1 or no whole episode is stored.
    """
    at_least_one(observation_size=observation_size, action_size=action_size)
    rows = []
    for length in lengths:
        at_least_one(length=length)
        for count in stored:
            at_least_one(stored=count // length)
            total = count // length * length
            size = _buffer_bytes(total, length, observation_size, action_size)
            row = Measurement.of(
                [size / 1e6],
                benchmark="replay",
                case=f"{total:,} stored, episodes of {length}, "
                f"{observation_size} observations and {action_size} actions",
                quantity="memory",
                unit="MB",
                threads=torch.get_num_threads(),
            )
            rows.append(row)
    return rows


def _draws(flat: TensorDict, length: int, slices: int, batch_size: int) -> dict:
    """What is timed on one filled buffer, by name."""
    storage = LazyTensorStorage(len(flat))
    buffer = TensorDictReplayBuffer(
        storage=storage, sampler=EpisodeSampler(seed=0), batch_size=batch_size
    )
    buffer.extend(flat)
    stock, cached = (
        TensorDictReplayBuffer(
            storage=storage,
            sampler=SliceSampler(
                num_slices=slices, end_key=("next", "done"), cache_values=cache
            ),
            batch_size=slices * length,
        )
        for cache in (False, True)
    )
    layout = row_layout(batch_size, length)._asdict()
    return {
        "EpisodeSampler": buffer.sample,
        "EpisodeSampler + pack_episodes": lambda: pack_episodes(
            buffer.sample(), **layout
        ),
        "SliceSampler": stock.sample,
        "SliceSampler(cache_values=True)": cached.sample,
    }


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
    tensors = [x for x in (*entries, *index) if isinstance(x, torch.Tensor)]
    return sum(x.numel() * x.element_size() for x in tensors)
