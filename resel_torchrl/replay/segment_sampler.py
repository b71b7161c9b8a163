"""A TorchRL sampler that draws segments of episodes until it has enough transitions."""

from __future__ import annotations

import numpy as np
import torch
from tensordict import NestedKey
from torchrl.data.replay_buffers.storages import Storage

from resel_torchrl.replay.sampler import IndexedSampler


class SegmentSampler(IndexedSampler):
    """Draws truncated segments of episodes, by number of transitions.

    What the paper compares whole episodes with (arXiv 2405.15384: segments of 64). It
    takes the place of :class:`EpisodeSampler` in a buffer, and everything said there
    about storages, unfinished episodes and start flags holds here.

    Each episode is cut from its first transition on in segments of ``segment_length``,
    the last of which may be shorter; a shorter episode is one segment. Segments are
    drawn uniformly and without repetition until their transitions reach the batch size.
    So every stored transition lies in exactly one segment and all are equally likely;
    with starting positions drawn at random, the first and the last transitions of an
    episode would be rare. With a ``segment_length`` of at least the longest episode the
    draws are those of an :class:`EpisodeSampler` of the same seed.

    A segment starts from a hidden state of zero, or from a stored one where it is
    packed with ``state_key``. The ``burn_in`` transitions before it, fewer near the
    episode's start, are returned in front of it: they advance the hidden state, and
    ``mask_key``, true on the segment alone, keeps them out of the losses. They do not
    count for the batch size. Unlike in R2D2, gradients pass through them.

    One more transition is returned in front of all that where the episode has one,
    marked by ``lead_key``: :func:`~resel_torchrl.replay.pack_episodes` takes from it
    the previous observation, action and reward of the first step.

    Args:
        segment_length (int): transitions of a segment.
        burn_in (int): transitions before it that advance the hidden state.
        horizon (int, optional): longest episode, if it is known, to check
            ``segment_length`` against.
        lead_key (NestedKey): written, true on the transition before the first step.
        mask_key (NestedKey): written if ``burn_in`` is above 0.
        seed (int, optional): as of :class:`EpisodeSampler`.
        done_key (NestedKey): end-of-episode flag in the storage.
        init_key (NestedKey): start-of-episode flag, read if stored; written, true on
            the first transition returned of each segment.

    Raises:
        ValueError: if a length is out of range, or a segment longer than the horizon.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> buffer = TensorDictReplayBuffer(
        ...     storage=LazyTensorStorage(100),
        ...     sampler=SegmentSampler(3, burn_in=1, seed=0),
        ...     batch_size=3)
        >>> done = torch.arange(8).eq(7).unsqueeze(-1)
        >>> episode = {"observation": torch.arange(8.0), "next": {"done": done}}
        >>> _ = buffer.extend(TensorDict(episode, [8]))
        >>> batch = buffer.sample()
        >>> batch["observation"]
        tensor([4., 5., 6., 7., 0., 1., 2.])
        >>> batch["is_lead"].flatten().int()
        tensor([1, 0, 0, 0, 0, 0, 0], dtype=torch.int32)
        >>> batch["learning_mask"].flatten().int()
        tensor([0, 0, 1, 1, 1, 1, 1], dtype=torch.int32)
    """

    _state_file = "segment_sampler.pt"

    def __init__(
        self,
        segment_length: int,
        *,
        burn_in: int = 0,
        horizon: int | None = None,
        lead_key: NestedKey = "is_lead",
        mask_key: NestedKey = "learning_mask",
        seed: int | None = None,
        done_key: NestedKey = ("next", "done"),
        init_key: NestedKey = "is_init",
    ) -> None:
        super().__init__(seed=seed, done_key=done_key, init_key=init_key)
        if segment_length < 1 or burn_in < 0:
            raise ValueError(
                "Expected a segment_length of at least 1 and a burn_in of at least 0, "
                f"got segment_length={segment_length}, burn_in={burn_in}."
            )
        if horizon is not None:
            _check_fits(segment_length, horizon, "episodes of at most")
        self.segment_length = segment_length
        self.burn_in = burn_in
        self.lead_key = lead_key
        self.mask_key = mask_key

    def sample(
        self, storage: Storage, batch_size: int
    ) -> tuple[torch.Tensor, dict[NestedKey, torch.Tensor]]:
        """Draws segments; called by the buffer.

        Returns:
            The slots, int64 ``[N]``, and bool ``[N, 1]`` flags under the init key, the
            lead key and, with burn-in, the mask key. The lengths, burn-in and leading
            transition included, are kept in ``last_lengths``.

        Raises:
            RuntimeError: if no whole episode is stored, or the kind of storage is not
                supported.
            ValueError: if an episode or a segment is longer than the storage.
        """
        _check_fits(self.segment_length, storage.max_size, "a storage of")
        self._refresh(storage, batch_size)
        episodes = self._index.episodes
        counts = -(-episodes.lengths // self.segment_length)
        ends = counts.cumsum()

        def locate(picks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """The episode of each segment, and where in it the segment begins."""
            episode = np.searchsorted(ends, picks, side="right")
            part = picks - (ends - counts)[episode]
            return episode, part * self.segment_length

        def lengths(picks: np.ndarray) -> np.ndarray:
            episode, begin = locate(picks)
            return np.minimum(episodes.lengths[episode] - begin, self.segment_length)

        picks = self._draw(batch_size, int(ends[-1]), lengths, "segment")
        episode, begin = locate(picks)
        learned = lengths(picks)
        burn_in = np.minimum(begin, self.burn_in)
        leads = begin > burn_in
        before = burn_in + leads
        slots, flags = self._read_slices(
            episodes.starts[episode] + begin - before,
            before + learned,
            storage.max_size,
        )
        first = flags[self.init_key]
        flags[self.lead_key] = torch.zeros_like(first)
        flags[self.lead_key][first] = torch.from_numpy(leads)
        if self.burn_in:
            pieces = np.stack([before, learned], 1).ravel()
            mask = np.tile([False, True], len(picks)).repeat(pieces)
            flags[self.mask_key] = torch.from_numpy(mask).unsqueeze(-1)
        return slots, flags

    def __repr__(self) -> str:
        return (
            f"{super().__repr__()[:-1]}, segment_length={self.segment_length}, "
            f"burn_in={self.burn_in})"
        )


def _check_fits(segment_length: int, limit: int, what: str) -> None:
    if segment_length > limit:
        raise ValueError(
            f"Expected segments that fit {what} {limit} transitions, got "
            f"segment_length={segment_length}: lower it, or draw whole episodes with "
            "EpisodeSampler."
        )
