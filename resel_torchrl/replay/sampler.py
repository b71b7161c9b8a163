"""A TorchRL sampler that draws whole episodes until it has enough transitions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey
from torchrl.data.replay_buffers.samplers import SliceSampler
from torchrl.data.replay_buffers.storages import Storage

from resel_torchrl.replay.episode_index import StorageIndex


class IndexedSampler(SliceSampler):
    """A slice sampler that follows the whole episodes of its storage.

    It keeps the index in step with the writes, draws distinct slices by number of
    transitions from a generator of its own, and is saved and restored with the buffer.
    Which slices there are is up to the sampler that is built on it: its ``sample``
    calls :meth:`_refresh`, :meth:`_draw` and :meth:`_read_slices`. The lengths of the
    slices of the last sample are in ``last_lengths``, int64 ``[k]``.
    """

    _state_file: str

    def __init__(
        self,
        *,
        seed: int | None = None,
        done_key: NestedKey = ("next", "done"),
        init_key: NestedKey = "is_init",
    ) -> None:
        super().__init__(
            num_slices=1,
            end_key=done_key,
            init_key=init_key,
            truncated_key=None,
            strict_length=False,
        )
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        self._warned = False
        self.last_lengths = np.empty(0, dtype=np.int64)
        self._index = StorageIndex(done_key, init_key)

    def extend(self, index: torch.Tensor) -> None:
        """Takes note of the slots that the buffer wrote, int ``[n]``.

        Raises:
            ValueError: if there are more of them than the storage holds.
            RuntimeError: if they do not follow on those written before.
        """
        self._index.note(index)

    def add(self, index: int | torch.Tensor) -> None:
        """Takes note of one slot that the buffer wrote."""
        self.extend(torch.as_tensor(index).reshape(-1))

    def state_dict(self) -> dict[str, Any]:
        """The index and the generator: all but the storage that draws depend on."""
        return {
            "index": self._index.state_dict(),
            "generator": self._generator.get_state(),
            "warned": self._warned,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned.

        Load the storage that belongs to it too, as the buffer's ``load_state_dict`` and
        ``loads`` do.
        """
        self._index.load_state_dict(state_dict["index"])
        self._generator.set_state(state_dict["generator"].cpu())
        self._warned = state_dict["warned"]

    def dumps(self, path: str | Path) -> None:
        """Writes the state to a file in the directory ``path``, made if need be."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), path / self._state_file)

    def loads(self, path: str | Path) -> None:
        """Restores what :meth:`dumps` wrote.

        Raises:
            FileNotFoundError: if it was not written by a sampler of the same class.
        """
        state = torch.load(Path(path) / self._state_file, weights_only=True)
        self.load_state_dict(state)

    def _refresh(self, storage: Storage, batch_size: int) -> None:
        """Reads what was written since the last sample; an error where nothing is."""
        if batch_size < 1:
            raise ValueError(f"Expected a batch size of at least 1, got {batch_size}.")
        self._index.refresh(storage)
        if not len(self._index.episodes):
            raise RuntimeError(self._index.explain_empty(storage))

    def _draw(
        self,
        batch_size: int,
        count: int,
        lengths: Callable[[np.ndarray], np.ndarray],
        kind: str,
    ) -> np.ndarray:
        """Which of ``count`` slices to return: distinct ones, all equally likely.

        First ``⌈batch_size / mean length⌉``, then more until ``batch_size`` transitions
        are reached. ``lengths`` gives those of numbers of slices, ``[k]`` to ``[k]``;
        ``kind`` is what the warning calls a slice.
        """
        transitions = self._index.episodes.transitions
        if transitions <= batch_size:
            if transitions < batch_size and not self._warned:
                self._warned = True
                warnings.warn(
                    f"The buffer holds {transitions} transitions in whole "
                    f"episodes and {batch_size} were asked: each {kind} is returned "
                    "once. Collect more before the first update to avoid this.",
                    stacklevel=2,
                )
            return np.arange(count)
        at_least = -(-batch_size * count // transitions)
        picks = np.empty(0, dtype=np.int64)
        while True:
            picks = self._draw_more(picks, at_least + at_least // 4 + 8, count)
            reached = lengths(picks).cumsum()
            needed = max(at_least, int(np.searchsorted(reached, batch_size)) + 1)
            if needed <= len(picks):
                return picks[:needed]

    def _draw_more(self, picks: np.ndarray, extra: int, count: int) -> np.ndarray:
        """Appends distinct slices in random order: some, or else all the rest."""
        generator = self._rng if self._rng is not None else self._generator
        options = {"generator": generator, "device": generator.device}
        if 2 * (len(picks) + extra) > count:
            rest = np.setdiff1d(np.arange(count), picks, assume_unique=True)
            order = torch.randperm(len(rest), **options).cpu().numpy()
            return np.concatenate([picks, rest[order]])
        new = torch.randint(count, (extra,), **options).cpu().numpy()
        picks = np.concatenate([picks, new])
        _, first = np.unique(picks, return_index=True)
        first.sort()
        return picks[first]

    def _read_slices(
        self, starts: np.ndarray, lengths: np.ndarray, capacity: int
    ) -> tuple[torch.Tensor, dict[NestedKey, torch.Tensor]]:
        """Slots and start flags of slices of the ring, from positions and lengths."""
        flat_starts = lengths.cumsum() - lengths
        slots = np.arange(lengths.sum())
        slots += (starts % capacity - flat_starts).repeat(lengths)
        slots[slots >= capacity] -= capacity
        is_init = np.zeros((len(slots), 1), dtype=bool)
        is_init[flat_starts] = True
        self.last_lengths = lengths
        return torch.from_numpy(slots), {self.init_key: torch.from_numpy(is_init)}

    def _sampleable_count(self, storage: Storage, batch_size: int) -> int:
        if not len(storage):
            return 0
        self._index.refresh(storage)
        return self._index.episodes.transitions

    def _empty(self) -> None:
        """Forgets the index, as the buffer is emptied; the generator goes on."""
        self._index.clear()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["_generator"] = self._generator.get_state()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        generator = torch.Generator()
        generator.set_state(state["_generator"])
        self.__dict__.update(state, _generator=generator)

    def __repr__(self) -> str:
        episodes = self._index.episodes
        return (
            f"{type(self).__name__}(episodes={len(episodes)}, "
            f"transitions={episodes.transitions}, done_key={self.end_key!r}, "
            f"init_key={self.init_key!r})"
        )


class EpisodeSampler(IndexedSampler):
    """Draws whole episodes, uniformly over episodes, by number of transitions.

    For a batch of ``B`` transitions, ``n = ⌈B / mean stored length⌉`` distinct episodes
    are drawn, then more until their lengths add up to at least ``B``. All of them are
    returned, one after another and never cut, in a flat batch ``[N]``, ``N ≥ B``, for
    :func:`~resel_torchrl.replay.pack_episodes`. With episodes of 1000, ``B = 1999``
    gives two and ``B = 999`` one. With fewer than ``B`` transitions stored, every
    episode is returned once, with a warning the first time.

    Unfinished episodes are not drawn, nor is one that was partly overwritten. Stored
    flags are returned as they are; ``is_init`` is written, true on the first transition
    of each episode, also if it is not stored.

    Write each finished episode with one ``extend``; one of several episodes, or of a
    part that later ones continue, works too. Stored start flags are compared with the
    ends: one inside an unfinished episode, as where parts of several environments'
    episodes were written in turns, or none after an end, is refused at the next sample.

    Supported are one-dimensional tensor storages (``LazyTensorStorage``,
    ``LazyMemmapStorage``) with the default round-robin writer. Leave ``prefetch``
    unset: its threads would sample while the buffer is written.

    Args:
        seed (int, optional): seed of the sampler's own generator; from the operating
            system if not given. The global one is never used. A generator given to the
            buffer (``ReplayBuffer(generator=...)``) takes its place.
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

        Returns:
            The slots, int64 ``[N]``, and the start flags, bool ``[N, 1]``, under the
            init key. The lengths are kept in ``last_lengths``.

        Raises:
            RuntimeError: if no whole episode is stored, or the kind of storage is not
                supported.
            ValueError: if an episode is longer than the storage, the data is not flat,
                or a stored start flag is not where an episode begins.
        """
        self._refresh(storage, batch_size)
        episodes = self._index.episodes
        picks = self._draw(
            batch_size, len(episodes), episodes.lengths.__getitem__, "episode"
        )
        return self._read_slices(
            episodes.starts[picks], episodes.lengths[picks], storage.max_size
        )
