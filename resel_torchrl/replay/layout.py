"""How episodes are laid out in rows of fixed length."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class RowLayout(NamedTuple):
    """Shapes of the packed batches of one run.

    Attributes:
        row_length: rows of time ``L`` in each packed row.
        row_counts: allowed numbers of rows ``R``, ascending.

    Examples:
        >>> layout = row_layout(batch_size=6, horizon=100)
        >>> layout
        RowLayout(row_length=101, row_counts=(1, 2, 3, 4, 5, 6))
    """

    row_length: int
    row_counts: tuple[int, ...]


def first_fit_decreasing(
    sizes: np.ndarray, capacity: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Places items into rows of equal capacity: largest first, into the first fit.

    Items of one size are placed together, which gives the same result as one at a
    time and costs (distinct sizes × rows) instead of (items × rows).

    Args:
        sizes (np.ndarray): int ``[k]``, each from 1 to ``capacity``.
        capacity (int): size of a row.

    Returns:
        The row of each item ``[k]``, its offset in that row ``[k]``, and the number of
        rows used.

    Examples:
        >>> rows, offsets, count = first_fit_decreasing(np.array([2, 5, 3, 2]), 6)
        >>> rows.tolist(), offsets.tolist(), count
        ([1, 0, 1, 2], [3, 0, 0, 0], 3)
    """
    order = np.argsort(-sizes, kind="stable")
    distinct, counts = np.unique(sizes, return_counts=True)
    room: list[int] = []
    runs: list[tuple[int, int, int, int]] = []  # row, first offset, size, count
    for size, left in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        row = 0
        while left:
            if row == len(room):
                room.append(capacity)
            fits = min(room[row] // size, left)
            if fits:
                runs.append((row, capacity - room[row], size, fits))
                room[row] -= fits * size
                left -= fits
            row += 1
    run_row, run_offset, run_size, run_count = np.array(runs, dtype=np.int64).T
    rank = np.arange(len(sizes)) - np.repeat(
        np.cumsum(run_count) - run_count, run_count
    )
    rows = np.empty(len(sizes), dtype=np.int64)
    offsets = np.empty(len(sizes), dtype=np.int64)
    rows[order] = np.repeat(run_row, run_count)
    offsets[order] = np.repeat(run_offset, run_count) + rank * np.repeat(
        run_size, run_count
    )
    return rows, offsets, len(room)


def row_layout(
    batch_size: int, horizon: int, *, gap: int = 0, min_row_length: int = 100
) -> RowLayout:
    """Chooses the row length and row counts that hold every draw of a run.

    An episode of ``T`` transitions takes ``T + 1`` rows of time. The row length is
    ``m·(horizon + 1) + (m − 1)·gap`` with the smallest ``m`` that reaches
    ``min_row_length``, rounded up to a multiple of 8 where that adds less than 1 %.
    The row counts begin at what a draw of full-length episodes takes and grow by a
    third, so that few shapes occur and at most a quarter of the rows is spare.

    Every draw of :class:`~resel_torchrl.replay.EpisodeSampler` fits. Let ``k`` be the
    number of episodes drawn. At first ``n = ⌈batch_size / mean length⌉ ≤ batch_size``
    are drawn, as every episode has at least one transition; one more is drawn only
    while the sum of lengths, and with it ``k``, is below ``batch_size``. So
    ``k ≤ batch_size``. A row holds ``m`` episodes of any length up to the horizon, and
    first-fit opens a row only when every open one holds ``m`` or more, so ``k``
    episodes never need more than ``⌈k / m⌉ ≤ ⌈batch_size / m⌉`` rows, which is the
    last row count. Nothing smaller will do: the sum of the lengths itself is bounded
    by ``batch_size − 1 + horizon`` only where more than ``n`` episodes were drawn; the
    ``n`` are all kept, and where lengths vary strongly they can all be long ones, up
    to ``n·horizon`` transitions. Such draws are rare, and so are the large row counts.

    Args:
        batch_size (int): transitions asked of the sampler.
        horizon (int): largest number of transitions in an episode.
        gap (int): blank rows that will be left between episodes.
        min_row_length (int): shorter horizons share a row.

    Returns:
        RowLayout: ``(row_length, row_counts)`` for :func:`pack_episodes`.

    Raises:
        ValueError: if an argument is out of range.

    Examples:
        >>> length, counts = row_layout(1999, 1000)
        >>> length, counts[:4], counts[-1]
        (1008, (2, 3, 4, 5), 1999)
        >>> length, counts = row_layout(800, 200)
        >>> length, counts[:4], counts[-1]
        (201, (4, 5, 6, 8), 800)
    """
    if batch_size < 1 or horizon < 1 or gap < 0 or min_row_length < 1:
        raise ValueError(
            "Expected batch_size, horizon and min_row_length of at least 1 and gap of "
            f"at least 0, got batch_size={batch_size}, horizon={horizon}, "
            f"min_row_length={min_row_length}, gap={gap}."
        )
    size = horizon + 1 + gap
    per_row = max(1, -(-(min_row_length + gap) // size))
    row_length = per_row * size - gap
    rounded = -(-row_length // 8) * 8
    if (rounded - row_length) * 100 < row_length:
        row_length = rounded

    full_length_episodes = -(-batch_size // horizon)
    last = -(-batch_size // per_row)
    counts = [-(-full_length_episodes // per_row)]
    while counts[-1] < last:
        counts.append(min(last, counts[-1] + max(1, counts[-1] // 3)))
    return RowLayout(row_length, tuple(counts))
