"""Which whole episodes lie in a ring of transitions, kept up to date write by write."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDictBase
from torchrl.data.replay_buffers.storages import Storage, TensorStorage


class StorageIndex:
    """The whole episodes of one storage, followed from write to write.

    A sampler is told which slots a write went to, not what was written, so :meth:`note`
    only counts, and :meth:`refresh`, which is given the storage, reads the flags of
    what was written since, and of nothing else. The storage counts its own mutations;
    if there were more than were noted (edits in place, another writer, a sampler
    attached late), the index is read anew.

    Where the transition before the oldest one is gone unread, an episode at the oldest
    one is indexed only if its start flag is stored.

    Args:
        done_key (NestedKey): end-of-episode flag in the storage.
        init_key (NestedKey): start-of-episode flag, read if it is stored.

    Attributes:
        episodes (EpisodeIndex): the episodes, as of the last :meth:`refresh`.

    Examples:
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage
        >>> storage, index = LazyTensorStorage(4), StorageIndex("done")
        >>> for slots in (torch.tensor([0, 1, 2]), torch.tensor([3, 0])):
        ...     done = torch.arange(len(slots)) == len(slots) - 1
        ...     storage.set(slots, TensorDict({"done": done}, [len(slots)]))
        ...     index.note(slots)
        >>> index.refresh(storage)
        >>> index.episodes.starts.tolist(), index.episodes.lengths.tolist()
        ([3], [2])
    """

    def __init__(self, done_key: NestedKey, init_key: NestedKey = "is_init") -> None:
        self.done_key = done_key
        self.init_key = init_key
        self.clear()

    def clear(self) -> None:
        """Forgets everything, as an emptied storage does."""
        self.episodes = EpisodeIndex()
        self._written = 0  # position after the last transition written
        self._last_slot: int | None = None  # of the last transition written
        self._writes = 0  # since the last refresh
        self._revision: int | None = None  # of the storage at that time
        self._cursor: int | None = None  # the storage's own record of the last slot

    def note(self, slots: torch.Tensor) -> None:
        """Takes note of one write, to slots ``[n]`` that are consecutive in the ring.

        Raises:
            ValueError: if there are more of them than the storage holds.
            RuntimeError: if they do not follow on what was written before.
        """
        if not slots.numel():
            return
        if slots.ndim != 1:
            raise RuntimeError(_ONE_DIMENSIONAL.format(slots.shape[-1]))
        count, first, last = slots.numel(), int(slots[0]), int(slots[-1])
        wraps = last != first + count - 1
        if wraps and (capacity := int(slots.max()) + 1) < count:
            raise ValueError(
                f"Expected episodes that fit the storage of {capacity} transitions, "
                f"got {count} at once: make the storage at least as large as the "
                "longest episode."
            )
        follows = self._last_slot is None or first in (0, self._last_slot + 1)
        if not follows or (wraps and last >= first):
            raise RuntimeError(
                "Expected transitions written one after another around the storage, "
                f"got slots {first} to {last} after slot {self._last_slot}: use the "
                "default round-robin writer, in one process."
            )
        self._written += count
        self._last_slot = self._cursor = last
        self._writes += 1

    def refresh(self, storage: Storage) -> None:
        """Reads the flags of the transitions written since the last call.

        Raises:
            RuntimeError: if the kind of storage is not supported, or a full one was
                restored without this index.
            KeyError: if the storage has no end-of-episode flag.
            ValueError: if an episode is longer than the storage, the data is not flat,
                or start flags are not where episodes begin.
        """
        if not isinstance(storage, TensorStorage):
            raise RuntimeError(
                "Expected a tensor storage, such as LazyTensorStorage, got "
                f"{type(storage).__name__}."
            )
        if storage.ndim != 1:
            raise RuntimeError(_ONE_DIMENSIONAL.format(storage.ndim))
        capacity, revision = storage.max_size, storage._mutation_revision
        known = self._revision is None or revision == self._revision + self._writes
        if not known or not self._agrees_with(storage):
            self._restart(storage)
        oldest = max(self._written - capacity, 0)
        if self.episodes.position < oldest:
            self.episodes.skip_to(oldest)
        if self.episodes.position < self._written:
            done, is_init = self._read(storage, self.episodes.position % capacity)
            self.episodes.advance(done, is_init, capacity)
        self.episodes.drop_before(oldest)
        self._revision, self._writes = revision, 0
        self._cursor = storage._last_cursor_index

    def explain_empty(self, storage: Storage) -> str:
        """Why there is no whole episode, and what to do, as an error message."""
        expected = "Expected at least one whole episode to sample from, got "
        if not len(storage):
            return f"{expected}an empty buffer: extend it first."
        if storage._is_full:
            return (
                f"{expected}a full storage of {storage.max_size} transitions without "
                "one: make it at least as large as the longest episode, better many "
                "times that."
            )
        return (
            f"{expected}{len(storage)} transitions of unfinished episodes: an episode "
            f"counts once its last transition, with {self.done_key!r} set, is written."
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that is not read from the storage."""
        return {
            "episodes": self.episodes.state_dict(),
            "written": self._written,
            "last_slot": self._last_slot,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned; the storage must match."""
        self.clear()
        self.episodes.load_state_dict(state["episodes"])
        self._written = state["written"]
        self._last_slot = state["last_slot"]

    def _agrees_with(self, storage: Storage) -> bool:
        if min(self._written, storage.max_size) != len(storage):
            return False
        return not self._written or (
            self._last_slot == (self._written - 1) % storage.max_size
        )

    def _restart(self, storage: Storage) -> None:
        """Begins the index again from what the storage holds."""
        last, full = self._last_slot, storage._is_full
        if not full:
            last = len(storage) - 1
        elif storage._last_cursor_index != self._cursor:
            # There were writes that were not noted. (A storage that was restored may
            # not know its last slot, which the saved index does.)
            last = storage._last_cursor_index
        if last is None:
            raise RuntimeError(
                "Expected to know which transition of the full storage was written "
                "last, got a storage that was loaded without its sampler: restore both "
                "with ReplayBuffer.loads or load_state_dict."
            )
        # A full storage's oldest transition may lie within an episode: only a start
        # flag on it makes it the first of one.
        self._written = last + 1 + (storage.max_size if full else 0)
        self._last_slot = last if self._written else None
        self.episodes.clear(*((last + 1, -1) if full else (0, 0)))

    def _read(
        self, storage: Storage, slot: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Done and start flags ``[n]`` from ``slot`` to the last transition written."""
        stop = self._last_slot + 1
        pieces = [slice(slot, stop)]
        if slot >= stop:
            pieces = [slice(slot, storage.max_size), slice(0, stop)]
        transitions = [storage.get(piece) for piece in pieces]
        done, is_init = (
            [
                _flags(piece, key)
                for piece in transitions
                if piece.get(key, None) is not None
            ]
            for key in (self.done_key, self.init_key)
        )
        if not done:
            raise KeyError(
                f"Expected the end-of-episode flag {self.done_key!r} in the storage: "
                "store it, or pass the done_key that it has."
            )
        return np.concatenate(done), np.concatenate(is_init) if is_init else None


_ONE_DIMENSIONAL = (
    "Expected a storage with one dimension, time, got {}: write each finished episode "
    "with one extend."
)


def _flags(transitions: TensorDictBase, key: NestedKey) -> np.ndarray:
    flags = transitions.get(key)
    if flags.numel() != len(flags):
        raise ValueError(
            f"Expected one transition in each slot, with {key!r} of shape [n] or "
            f"[n, 1], got {list(flags.shape)}: write each finished episode, [T], with "
            "one extend. (Data of several environments, [n, T], is to be split into "
            "episodes first.)"
        )
    return flags.reshape(-1).bool().cpu().numpy()


class EpisodeIndex:
    """Starts and lengths of the whole episodes in a ring buffer, oldest first.

    A *position* is the number of transitions written before it since the ring was
    last empty; it never wraps. The slot that holds it is ``position % capacity``.

    An episode enters when its done flag is read. Where start flags are stored, they
    must be where episodes begin and nowhere else: steps of several environments that
    were written in turns, part by part, would be taken for one episode.

    Attributes:
        starts (np.ndarray): first positions, int64 ``[len(self)]``, ascending.
        lengths (np.ndarray): lengths in transitions, int64 ``[len(self)]``.
        position (int): everything before it has been read.
        open_start (int): first position of the episode in progress; −1 where that
            transition is no longer known, until the next done or start flag.
        transitions (int): total length of the indexed episodes.

    Examples:
        >>> import numpy as np
        >>> index = EpisodeIndex()
        >>> index.advance(np.array([False, False, True, False]), None, capacity=8)
        >>> index.starts.tolist(), index.lengths.tolist(), index.open_start
        ([0], [3], 3)
        >>> index.advance(np.array([True]), None, capacity=8)
        >>> index.starts.tolist(), index.lengths.tolist(), index.transitions
        ([0, 3], [3, 2], 5)
        >>> index.drop_before(1)
        >>> index.starts.tolist()
        [3]
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self, position: int = 0, open_start: int = 0) -> None:
        """Forgets every episode and starts again at ``position``."""
        # Starts and lengths, in columns _first to _last; the table grows by doubling.
        self._table = np.empty((2, 64), dtype=np.int64)
        self._first = self._last = 0
        self.transitions = 0
        self.position = position
        self.open_start = open_start

    @property
    def starts(self) -> np.ndarray:
        """First positions, a view."""
        return self._table[0, self._first : self._last]

    @property
    def lengths(self) -> np.ndarray:
        """Lengths in transitions, a view."""
        return self._table[1, self._first : self._last]

    def __len__(self) -> int:
        return self._last - self._first

    def advance(
        self, done: np.ndarray, is_init: np.ndarray | None, capacity: int
    ) -> None:
        """Reads the flags of the next ``n`` transitions, bool ``[n]``.

        Raises:
            ValueError: if an episode is longer than ``capacity``, or a start flag is
                inside an unfinished episode or missing after a finished one; nothing
                is changed.
        """
        open_start = self.open_start
        if is_init is not None and len(done):
            self._check_starts(done, is_init)
            if is_init[0]:
                open_start = self.position
        ends = np.flatnonzero(done) + self.position
        starts = np.empty_like(ends)
        if len(ends):
            starts[0] = open_start
            starts[1:] = ends[:-1] + 1
            open_start = int(ends[-1]) + 1
        known = starts >= 0
        starts = starts[known]
        lengths = ends[known] - starts + 1

        position = self.position + len(done)
        longest = int(lengths.max(initial=0))
        if open_start >= 0:
            longest = max(longest, position - open_start)
        if longest > capacity:
            raise ValueError(
                f"Expected episodes that fit the storage of {capacity} transitions, "
                f"got one of at least {longest}: make the storage at least as large "
                "as the longest episode."
            )
        self._append(starts, lengths)
        self.position, self.open_start = position, open_start

    def skip_to(self, position: int) -> None:
        """Passes over transitions that were overwritten before they were read."""
        self.position, self.open_start = position, -1

    def drop_before(self, position: int) -> None:
        """Drops every episode that begins before ``position``, whole."""
        leaving = int(np.searchsorted(self.starts, position))
        if leaving:
            self.transitions -= int(self.lengths[:leaving].sum())
            self._first += leaving
        if 0 <= self.open_start < position:
            self.open_start = -1

    def state_dict(self) -> dict[str, Any]:
        """The index as tensors and integers (copies)."""
        return {
            "starts": torch.from_numpy(self.starts.copy()),
            "lengths": torch.from_numpy(self.lengths.copy()),
            "position": self.position,
            "open_start": self.open_start,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.clear(state["position"], state["open_start"])
        self._append(state["starts"].cpu().numpy(), state["lengths"].cpu().numpy())

    def _append(self, starts: np.ndarray, lengths: np.ndarray) -> None:
        count = len(self) + len(starts)
        if self._last + len(starts) > self._table.shape[1]:
            table = np.empty((2, 2 * count), dtype=np.int64)
            table[:, : len(self)] = self._table[:, self._first : self._last]
            self._table, self._first, self._last = table, 0, len(self)
        new = slice(self._last, self._first + count)
        self._table[:, new] = starts, lengths
        self._last = new.stop
        self.transitions += int(lengths.sum())

    def _check_starts(self, done: np.ndarray, is_init: np.ndarray) -> None:
        starts = np.empty_like(done)
        starts[1:] = done[:-1]
        # Of an episode whose start is no longer known, any may be the first.
        unknown = self.open_start < 0
        starts[0] = is_init[0] if unknown else self.open_start == self.position
        wrong = np.flatnonzero(starts != is_init)
        if not len(wrong):
            return
        first = int(wrong[0])
        where = f"transition {self.position + first} (counted from 0 as written)"
        if is_init[first]:
            raise ValueError(
                f"Expected episodes one after another, got the start of one at {where} "
                "inside another that has not ended: write each finished episode with "
                "one extend, never the steps of several environments in turns; if an "
                "episode was broken off, mark its last transition as done and "
                "truncated. Empty the buffer first."
            )
        raise ValueError(
            f"Expected a start flag at {where}, right after the end of an episode, got "
            "none: it is the middle of an episode whose beginning was written "
            "elsewhere. Write each finished episode with one extend, or leave the "
            "start flags out. Empty the buffer first."
        )
