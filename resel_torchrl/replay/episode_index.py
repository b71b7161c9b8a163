"""Which whole episodes lie in a ring of transitions, kept up to date write by write."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class EpisodeIndex:
    """Starts and lengths of the whole episodes in a ring buffer, oldest first.

    A *position* is the number of transitions written before it since the ring was
    last empty; it never wraps. The slot that holds it is ``position % capacity``.

    An episode enters when its done flag is read. Where start flags are stored, they
    must be where episodes begin and nowhere else: steps of several environments that
    were written in turns, part by part, would be taken for one episode.

    Attributes:
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
        """Forgets every episode and starts again at ``position``.

        Args:
            position (int): first position that will be read next.
            open_start (int): where the episode in progress began, −1 if unknown.

        Examples:
            >>> index = EpisodeIndex()
            >>> index.clear(position=5, open_start=-1)
            >>> len(index), index.position
            (0, 5)
        """
        self._start = np.empty(64, dtype=np.int64)
        self._length = np.empty(64, dtype=np.int64)
        self._head = self._tail = 0
        self.transitions = 0
        self.position = position
        self.open_start = open_start

    def __len__(self) -> int:
        return self._tail - self._head

    @property
    def starts(self) -> np.ndarray:
        """First positions, ``[len(self)]`` int64, ascending (a view)."""
        return self._start[self._head : self._tail]

    @property
    def lengths(self) -> np.ndarray:
        """Lengths in transitions, ``[len(self)]`` int64 (a view)."""
        return self._length[self._head : self._tail]

    def advance(
        self, done: np.ndarray, is_init: np.ndarray | None, capacity: int
    ) -> None:
        """Reads the flags of the next ``n`` transitions.

        Args:
            done (np.ndarray): end-of-episode flags, bool ``[n]``.
            is_init (np.ndarray or None): start-of-episode flags, bool ``[n]``.
            capacity (int): transitions that the ring holds.

        Raises:
            ValueError: if an episode is longer than ``capacity``, or a start flag is
                inside an unfinished episode or missing after a finished one; nothing
                is changed.

        Examples:
            >>> index = EpisodeIndex()
            >>> index.advance(np.array([False] * 9), None, capacity=8)
            Traceback (most recent call last):
            ...
            ValueError: Expected episodes that fit the storage of 8 transitions, got \
one of at least 9: make the storage at least as large as the longest episode.
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

    def _check_starts(self, done: np.ndarray, is_init: np.ndarray) -> None:
        starts = np.empty_like(done)
        starts[1:] = done[:-1]
        # Of an episode whose start is no longer known, any row may be the first.
        unknown = self.open_start < 0
        starts[0] = is_init[0] if unknown else self.open_start == self.position
        wrong = np.flatnonzero(starts != is_init)
        if not len(wrong):
            return
        row = int(wrong[0])
        where = f"transition {self.position + row} (counted from 0 as written)"
        if is_init[row]:
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

    def skip_to(self, position: int) -> None:
        """Passes over transitions that were overwritten before they were read.

        Args:
            position (int): the oldest position that still exists.

        Examples:
            >>> index = EpisodeIndex()
            >>> index.skip_to(3)
            >>> index.position, index.open_start
            (3, -1)
        """
        self.position, self.open_start = position, -1

    def drop_before(self, position: int) -> None:
        """Drops every episode that begins before ``position``, whole.

        Args:
            position (int): the oldest position that still exists.

        Examples:
            >>> index = EpisodeIndex()
            >>> index.advance(np.array([False, True, True]), None, capacity=3)
            >>> index.drop_before(1)
            >>> index.starts.tolist(), index.lengths.tolist()
            ([2], [1])
        """
        leaving = int(np.searchsorted(self.starts, position))
        if leaving:
            self.transitions -= int(self.lengths[:leaving].sum())
            self._head += leaving
        if 0 <= self.open_start < position:
            self.open_start = -1

    def _append(self, starts: np.ndarray, lengths: np.ndarray) -> None:
        n = len(starts)
        if self._tail + n > len(self._start):
            # Twice the live part: the moves cost O(1) per episode on average.
            size = max(64, 2 * (len(self) + n))
            for name in ("_start", "_length"):
                moved = np.empty(size, dtype=np.int64)
                moved[: len(self)] = getattr(self, name)[self._head : self._tail]
                setattr(self, name, moved)
            self._head, self._tail = 0, len(self)
        self._start[self._tail : self._tail + n] = starts
        self._length[self._tail : self._tail + n] = lengths
        self._tail += n
        self.transitions += int(lengths.sum())

    def state_dict(self) -> dict[str, Any]:
        """The index as tensors and integers (copies).

        Examples:
            >>> index = EpisodeIndex()
            >>> index.advance(np.array([False, True]), None, capacity=3)
            >>> index.state_dict()["lengths"]
            tensor([2])
        """
        return {
            "starts": torch.from_numpy(self.starts.copy()),
            "lengths": torch.from_numpy(self.lengths.copy()),
            "position": self.position,
            "open_start": self.open_start,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned.

        Examples:
            >>> index, other = EpisodeIndex(), EpisodeIndex()
            >>> index.advance(np.array([False, True]), None, capacity=3)
            >>> other.load_state_dict(index.state_dict())
            >>> other.lengths.tolist(), other.position
            ([2], 2)
        """
        self.clear(state["position"], state["open_start"])
        self._append(state["starts"].cpu().numpy(), state["lengths"].cpu().numpy())
