"""A TorchRL sampler that draws whole episodes until it has enough transitions."""

from __future__ import annotations

import torch
from tensordict import NestedKey
from torchrl.data.replay_buffers.storages import Storage

from resel_torchrl.replay.indexed_sampler import IndexedSampler


class EpisodeSampler(IndexedSampler):
    """Draws whole episodes, uniformly over episodes, by number of transitions.

    For a batch of ``B`` transitions, ``n = ⌈B / mean stored length⌉`` distinct
    episodes are drawn, then more until their lengths add up to at least ``B``. All of
    them are returned, one after another and never cut, so a sample has ``N ≥ B``
    transitions, in a flat ``[N]`` batch for
    :func:`~resel_torchrl.replay.pack_episodes`. With episodes of 1000, ``B = 1999``
    gives two and ``B = 999`` one. With fewer than ``B`` transitions stored, every
    episode is returned once, with a warning the first time.

    Unfinished episodes are not drawn, nor is an episode that was partly overwritten;
    one that wraps around the end of the storage is. Stored flags are returned as they
    are (the stock sampler marks ``truncated``); ``is_init`` is written, true on the
    first transition of each episode, also if it is not stored.

    Write each finished episode with one ``extend``. An ``extend`` of several episodes,
    or of a part that later ones continue, works too. Start flags (``is_init``) that are
    stored are compared with the ends: one inside an unfinished episode, as where parts
    of several environments' episodes were written in turns, or none after an end, is
    refused at the next sample. Without that entry they would be taken for one episode.

    The index of episodes costs a read of the flags of what was written since the last
    sample (:class:`~resel_torchrl.replay.StorageIndex`), and the rows of the batch are
    read once, by the buffer. The stock sampler reads the whole done column and the
    batch once more at every sample.

    Supported are one-dimensional tensor storages (``LazyTensorStorage``,
    ``LazyMemmapStorage``) with the default round-robin writer. Leave ``prefetch``
    unset: its threads would sample while the buffer is written.

    Args:
        seed (int, optional): seed of the sampler's own generator; from the operating
            system if not given. The global one is never used. A generator given to
            the buffer (``ReplayBuffer(generator=...)``) takes its place.
        done_key (NestedKey): end-of-episode flag in the storage.
        init_key (NestedKey): start-of-episode flag, read if stored, always written.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> buffer = TensorDictReplayBuffer(
        ...     storage=LazyTensorStorage(100), sampler=EpisodeSampler(seed=0),
        ...     batch_size=4)
        >>> for length in (2, 3, 4):
        ...     done = torch.arange(length).eq(length - 1).unsqueeze(-1)
        ...     episode = TensorDict({
        ...         "observation": torch.full((length, 1), float(length)),
        ...         "next": {"done": done}}, [length])
        ...     _ = buffer.extend(episode)
        >>> batch = buffer.sample()
        >>> batch["observation"].flatten()
        tensor([4., 4., 4., 4., 2., 2.])
        >>> batch["is_init"].flatten().int()
        tensor([1, 0, 0, 0, 1, 0], dtype=torch.int32)
    """

    _state_file = "episode_sampler.pt"

    def sample(
        self, storage: Storage, batch_size: int
    ) -> tuple[torch.Tensor, dict[NestedKey, torch.Tensor]]:
        """Draws episodes; called by the buffer.

        Args:
            storage (Storage): where the transitions lie.
            batch_size (int): transitions to reach, ``B``.

        Returns:
            The slots, int64 ``[N]``, and the start flags, bool ``[N, 1]``, under the
            init key. The lengths are kept in :attr:`last_lengths`.

        Raises:
            RuntimeError: if no whole episode is stored, or the kind of storage is not
                supported.
            ValueError: if an episode is longer than the storage, the data is not flat,
                or a stored start flag is not where an episode begins.

        Examples:
            >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
            >>> TensorDictReplayBuffer(
            ...     storage=LazyTensorStorage(8), sampler=EpisodeSampler()).sample(4)
            Traceback (most recent call last):
            ...
            RuntimeError: Expected at least one whole episode to sample from, got an \
empty buffer: extend it first.
        """
        self._refresh(storage, batch_size)
        episodes = self._index.episodes
        picks = self._draw(
            batch_size, len(episodes), episodes.lengths.__getitem__, "episode"
        )
        return self._read_slices(
            episodes.starts[picks], episodes.lengths[picks], storage.max_size
        )
