"""From a flat batch of episodes to the packed batch that losses and encoders see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase


def pack_episodes(
    flat: TensorDictBase,
    row_length: int,
    row_counts: int | Sequence[int] | None = None,
    *,
    gap: int = 0,
    lengths: np.ndarray | torch.Tensor | Sequence[int] | None = None,
    observation_keys: Sequence[NestedKey] = ("observation",),
    action_key: NestedKey = "action",
    reward_key: NestedKey = "reward",
    done_key: NestedKey = "done",
    terminated_key: NestedKey = "terminated",
    is_init_key: NestedKey = "is_init",
    valid_key: NestedKey = "valid",
    lead_key: NestedKey = "is_lead",
    mask_key: NestedKey = "learning_mask",
    state_key: NestedKey | None = None,
) -> TensorDict:
    """Lays episodes one after another in ``R`` rows of ``L = row_length`` steps.

    An episode of ``T`` transitions has ``T + 1`` observations and takes ``T + 1`` steps
    of a row; the successor of ``[r, t]`` is ``[r, t + 1]``, so one unroll over ``L``
    gives both the contexts and the next contexts of whole trajectories, which the
    method (arXiv 2405.15384) learns from::

        step              0    1    2  ...  T       | next episode | padding
        observation       o_0  o_1  o_2 ... o_T
        prev_observation  0    o_0  o_1 ... o_{T-1}
        prev_action       0    a_0  a_1 ... a_{T-1}
        prev_reward       0    r_0  r_1 ... r_{T-1}
        action            a_0  a_1  a_2 ... 0
        next/reward       r_0  r_1  r_2 ... 0         (next/done, next/terminated too)
        is_init           1    0    0   ... 0       | 1            | 1
        valid             1    1    1   ... 0       | 1            | 0

    Everything else at step ``T`` and in the padding is zero; ``valid`` is false at the
    last step of every row. Entries that are not listed above are left out.

    Rows are filled first-fit, longest episode first; episodes keep no order. A slice
    that was cut out of a longer episode is packed as an episode that was truncated at
    its last transition: done there, terminated as stored, and zeros before its first.
    Its end is the done flag that TorchRL's slice samplers write, a start flag on the
    next transition, or the end of ``flat``.

    A segment of :class:`SegmentSampler` is such a slice with two more entries. Where
    ``lead_key`` is true, on the transition before its first, the previous inputs of its
    first step are taken from that transition, which gets no step of its own. Where
    ``mask_key`` is false, on the burn-in, steps are ``valid`` and carry no loss.

    With ``state_key`` segments start from the hidden state that was stored with their
    first transition, and not from zero. Each is then alone in its row, as an encoder
    reads a hidden state at the first step only, and ``is_init`` is true there just
    where the segment begins its episode.

    Args:
        flat (TensorDictBase): transitions ``[N]`` in TorchRL's episode format, one
            episode after another, as :class:`EpisodeSampler` or another slice sampler
            gives them: observations ``[N, *o]`` at ``key`` and ``("next", key)``;
            actions ``[N, *a]``; ``("next", ...)`` reward, done and terminated,
            ``[N, 1]`` or ``[N]``; and, if present, ``is_init``.
        row_length (int): steps ``L`` of a row; at least the longest episode plus one.
        row_counts (int, sequence of int, or None): allowed ``R``; the smallest that
            holds the episodes is used. With ``None`` any number. See
            :func:`row_layout`.
        gap (int): blank steps to leave between two episodes.
        lengths (optional): the lengths of the slices, ``[k]``, if they are known on the
            host (``last_lengths`` of the sampler): finding them in ``flat`` waits for
            an accelerator.
        observation_keys (sequence of NestedKey): each gets a ``prev_`` twin.
        action_key (NestedKey): likewise.
        reward_key (NestedKey): under "next", and with a ``prev_`` twin at the root.
        done_key (NestedKey): under "next".
        terminated_key (NestedKey): under "next".
        is_init_key (NestedKey): written; read, if present, to check the boundaries.
        valid_key (NestedKey): written.
        lead_key (NestedKey): bool, read if present.
        mask_key (NestedKey): bool, copied if present; false in the padding.
        state_key (NestedKey, optional): hidden state ``[N, state_size]`` of an encoder
            before each transition. ``lead_key`` must be present then.

    Returns:
        TensorDict: ``[R, L]`` on the device of ``flat``; flags and rewards are
        ``[R, L, 1]``, one-dimensional entries gain a last dimension of 1. The hidden
        state of a row is expanded over its steps, in the storage of one.

    Raises:
        KeyError: if an entry is missing.
        ValueError: if ``flat`` is not a non-empty ``[N]`` batch, an episode is too
            long for a row, the episodes do not fit the allowed row counts, or flags
            or lengths contradict each other.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> done = torch.tensor([[False], [True], [True]])
        >>> next_ = {"observation": torch.tensor([[2.0], [3.0], [5.0]]),
        ...          "reward": torch.ones(3, 1), "done": done, "terminated": done}
        >>> flat = TensorDict({"observation": torch.tensor([[1.0], [2.0], [4.0]]),
        ...                    "action": torch.ones(3, 1), "next": next_}, [3])
        >>> batch = pack_episodes(flat, row_length=6)
        >>> batch["observation"].squeeze(-1)
        tensor([[1., 2., 3., 4., 5., 0.]])
        >>> batch["prev_observation"].squeeze(-1)
        tensor([[0., 1., 2., 0., 4., 0.]])
        >>> batch["valid"].squeeze(-1).int()
        tensor([[1, 1, 0, 1, 0, 0]], dtype=torch.int32)
        >>> batch["is_init"].squeeze(-1).int()
        tensor([[1, 0, 0, 1, 0, 1]], dtype=torch.int32)
    """
    if flat.ndim != 1 or not len(flat):
        raise ValueError(
            "Expected a flat batch of transitions, batch size [N] with N > 0, got "
            f"{list(flat.batch_size)}: pass the output of a slice sampler unchanged, "
            "and pack it once."
        )
    if gap < 0:
        raise ValueError(f"Expected a gap of at least 0 steps, got {gap}.")
    if isinstance(observation_keys, str):
        observation_keys = (observation_keys,)
    done = _column(flat, _under_next(done_key))
    if lengths is None:
        lengths = _slice_lengths(done, flat.get(is_init_key, None))
    else:
        lengths = np.asarray(lengths, dtype=np.int64)
        if lengths.sum() != len(flat) or (lengths < 1).any():
            raise ValueError(
                f"Expected positive lengths that add up to the {len(flat)} transitions "
                f"of the batch, got a sum of {lengths.sum()}: pass the lengths of the "
                "same draw."
            )
    starts = np.cumsum(lengths) - lengths
    lead = flat.get(lead_key, None)
    if state_key is not None and lead is None:
        raise KeyError(
            f"Expected the entry {lead_key!r} beside the hidden state {state_key!r}, "
            "which tells the segments that begin inside of an episode, got none: "
            "sample with SegmentSampler, or pack without state_key to start from zero."
        )
    is_lead = _lead_flags(lead, starts, lengths)
    leads = is_lead[starts].astype(np.int64)  # 1 where a slice begins with one
    firsts, n_rows = _place(
        lengths - leads, row_length, row_counts, gap, alone=state_key is not None
    )

    def on_device(indices: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(indices).to(done.device)

    # The step of each transition, rows one after another. A leading transition has none
    # of its own: it supplies the previous inputs of the step after it.
    step = np.arange(len(flat)) + np.repeat(firsts - leads - starts, lengths)
    own = on_device(np.flatnonzero(~is_lead)) if leads.any() else slice(None)
    after = on_device(step + 1)
    step = on_device(step)[own]
    last_step = on_device(firsts + lengths - leads)  # step T
    last_transition = on_device(starts + lengths - 1)

    def lay(values: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        laid = values.new_zeros((n_rows * row_length, *values.shape[1:]))
        laid[steps] = values
        return laid

    packed: dict[NestedKey, torch.Tensor] = {}
    for key in observation_keys:
        values = _column(flat, key)
        packed[key] = lay(values[own], step)
        packed[key][last_step] = _column(flat, _under_next(key))[last_transition]
        packed[_previous(key)] = lay(values, after)
    reward_entry = _under_next(reward_key)
    for key, entry in ((action_key, action_key), (reward_key, reward_entry)):
        values = _column(flat, entry)
        packed[entry] = lay(values[own], step)
        packed[_previous(key)] = lay(values, after)
    ends = packed[_under_next(done_key)] = lay(done[own], step)
    ends[last_step - 1] = True
    entry = _under_next(terminated_key)
    packed[entry] = lay(_column(flat, entry)[own], step)
    valid = packed[valid_key] = torch.zeros_like(ends)
    valid[step] = True
    is_init = packed[is_init_key] = torch.ones_like(ends)
    is_init[step + 1] = False
    if flat.get(mask_key, None) is not None:
        packed[mask_key] = lay(_column(flat, mask_key)[own], step)

    batch = TensorDict({}, [n_rows, row_length], device=flat.device)
    for key, values in packed.items():
        batch.set(key, values.unflatten(0, (n_rows, row_length)))
    if state_key is not None:
        stored = _column(flat, state_key)
        state = stored.new_zeros((n_rows, *stored.shape[1:]))
        state[: len(lengths)] = stored[on_device(starts + leads)]
        batch.set(state_key, state.unsqueeze(1).expand(-1, row_length, -1))
        batch.get(is_init_key)[: len(lengths), 0, 0] = on_device(leads == 0)
    return batch


def padding_share(
    batch: TensorDictBase, valid_key: NestedKey = "valid"
) -> torch.Tensor:
    """Share of a packed batch that carries no transition.

    The last step of each episode counts too: it is ``1 / (T + 1)`` of an episode.

    Args:
        batch (TensorDictBase): a packed batch ``[R, L]``.
        valid_key (NestedKey): where its mask lies.

    Returns:
        torch.Tensor: a scalar, on the device of the batch.

    Examples:
        >>> from tensordict import TensorDict
        >>> valid = torch.tensor([[[True], [True], [False], [False]]])
        >>> padding_share(TensorDict({"valid": valid}, [1, 4]))
        tensor(0.5000)
    """
    return 1.0 - batch.get(valid_key).float().mean()


class RowLayout(NamedTuple):
    """Shapes of the packed batches of one run.

    Attributes:
        row_length: steps ``L`` of a row.
        row_counts: allowed numbers of rows ``R``, ascending.

    Examples:
        >>> row_layout(batch_size=6, horizon=100)
        RowLayout(row_length=101, row_counts=(1, 2, 3, 4, 5, 6))
    """

    row_length: int
    row_counts: tuple[int, ...]


def row_layout(
    batch_size: int, horizon: int, *, gap: int = 0, min_row_length: int = 100
) -> RowLayout:
    """Chooses the row length and row counts that hold every draw of a run.

    The row length is ``m·(horizon + 1) + (m − 1)·gap`` steps with the smallest ``m``
    that reaches ``min_row_length``, rounded up to a multiple of 8 where that adds less
    than 1 %. The row counts begin at what a draw of full-length episodes takes and grow
    by a third, so that few shapes occur and at most a quarter of the rows is spare.

    The last row count is ``⌈batch_size / m⌉``. It holds every draw of
    :class:`~resel_torchrl.replay.EpisodeSampler`: one of at most ``batch_size``
    episodes, of which first-fit puts ``m`` or more into a row before it opens another.
    Nothing smaller will do: where lengths vary strongly, all of the first
    ``⌈batch_size / mean length⌉`` drawn can be long ones.

    Args:
        batch_size (int): transitions asked of the sampler.
        horizon (int): largest number of transitions in an episode, which takes one step
            more than that.
        gap (int): blank steps that will be left between episodes.
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


def first_fit_decreasing(
    sizes: np.ndarray, capacity: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Places items into rows of equal capacity: largest first, into the first fit.

    Costs (distinct sizes × rows) and not (items × rows), as items of one size are
    placed together.

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


def _place(
    lengths: np.ndarray,
    row_length: int,
    row_counts: int | Sequence[int] | None,
    gap: int,
    *,
    alone: bool,
) -> tuple[np.ndarray, int]:
    """The first step of each episode ``[k]``, rows one after another, and ``R``.

    With ``alone`` each episode is at the beginning of a row of its own, in order.
    """
    longest = int(lengths.max())
    if longest >= row_length:
        raise ValueError(
            f"episode of {longest} transitions met, row_length = {row_length}: raise "
            f"the horizon to at least {longest}, the row length to {longest + 1}."
        )
    if alone:
        rows, offsets, used = np.arange(len(lengths)), 0, len(lengths)
    else:
        rows, offsets, used = first_fit_decreasing(lengths + 1 + gap, row_length + gap)
    if row_counts is None:
        n_rows = used
    else:
        allowed = [row_counts] if isinstance(row_counts, int) else list(row_counts)
        n_rows = min((count for count in allowed if count >= used), default=0)
        if not n_rows:
            raise ValueError(
                f"Expected a batch that fits in {max(allowed, default=0)} rows of "
                f"{row_length}, got {len(lengths)} episodes of {lengths.sum()} "
                f"transitions in all, which take {used} rows: allow more rows, or use "
                "row_layout(batch_size, horizon), whose rows hold every draw."
            )
    return rows * row_length + offsets, n_rows


def _slice_lengths(done: torch.Tensor, is_init: torch.Tensor | None) -> np.ndarray:
    """Lengths ``[k]`` of the slices of a batch, from its flags."""
    ends = done.reshape(-1).cpu().numpy().copy()
    ends[-1] = True
    if is_init is not None:
        starts = is_init.reshape(-1).cpu().numpy()
        wrong = np.flatnonzero(ends[:-1] & ~starts[1:])
        if len(wrong) or not starts[0]:
            place = int(wrong[0]) + 1 if starts[0] else 0
            raise ValueError(
                "Expected a start flag on the first transition of every episode, got "
                f"none at {place}, which follows "
                f"{'a done flag' if place else 'nothing'}: sample whole slices, and "
                "collect with InitTracker."
            )
        ends[:-1] |= starts[1:]
    return np.diff(np.flatnonzero(ends), prepend=-1)


def _lead_flags(
    flags: torch.Tensor | None, starts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Which transitions ``[N]`` are leading ones: the first of a slice, or none."""
    if flags is None:
        return np.zeros(lengths.sum(), dtype=bool)
    is_lead = flags.reshape(-1).cpu().numpy()
    misplaced = is_lead.copy()
    misplaced[starts] = False
    if misplaced.any() or (is_lead[starts] & (lengths == 1)).any():
        raise ValueError(
            "Expected a leading transition only as the first of a slice with others "
            f"after it, got flags at {np.flatnonzero(is_lead).tolist()} in slices that "
            f"begin at {starts.tolist()}: pass the output of SegmentSampler unchanged."
        )
    return is_lead


def _under_next(key: NestedKey) -> tuple[str, ...]:
    return ("next", key) if isinstance(key, str) else ("next", *key)


def _previous(key: NestedKey) -> NestedKey:
    if isinstance(key, str):
        return f"prev_{key}"
    return (*key[:-1], f"prev_{key[-1]}")


def _column(flat: TensorDictBase, key: NestedKey) -> torch.Tensor:
    value = flat.get(key, None)
    if value is None:
        present = sorted(map(str, flat.keys(include_nested=True, leaves_only=True)))
        raise KeyError(
            f"Expected the entry {key!r} in the batch of transitions, got "
            f"{', '.join(present)}: store it, or name the key it has."
        )
    return value.unsqueeze(-1) if value.ndim == 1 else value
