"""Reading a packed batch: what the losses take, checked and free of padding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from resel_torchrl.modules.previous_step import is_previous, source_key
from resel_torchrl.objectives.functional import fill_outside, observed_rows


@dataclass(frozen=True)
class PackedBatch:
    """A packed batch of ``R`` rows of ``L`` observations, nothing left of its padding.

    Attributes:
        rows: TensorDict ``[R, L]``: every observed entry, zero in rows that hold no
            observation, and the start flags, true there.
        action: ``[R, L - 1, A]``, zero where no transition is.
        reward: ``[R, L - 1]``, zero where no transition is.
        terminated: bool ``[R, L - 1]``, false where no transition is.
        mask: bool ``[R, L - 1]``: the transitions.

    Examples:
        >>> one = torch.ones(1, 1)
        >>> batch = PackedBatch(
        ...     rows=TensorDict({"observation": torch.zeros(1, 2, 3)}, [1, 2]),
        ...     action=torch.zeros(1, 1, 2),
        ...     reward=one,
        ...     terminated=one.bool(),
        ...     mask=one.bool(),
        ... )
        >>> batch.reward[batch.mask].mean()
        tensor(1.)
    """

    rows: TensorDict
    action: Tensor
    reward: Tensor
    terminated: Tensor
    mask: Tensor


def _checked_shape(tensordict: TensorDictBase, valid_key: NestedKey) -> torch.Size:
    """``[R, L]`` of a packed batch, or an error that says how to get one."""
    valid = tensordict.get(valid_key, None)
    shape = tensordict.batch_size
    if len(shape) == 0 and valid is not None:
        # Keyword arguments (`loss(observation=..., ...)`) arrive without batch size.
        shape = valid.shape[:-1]
    if len(shape) != 2 or shape[1] < 2:
        raise ValueError(
            "Expected a packed batch of batch size [R, L], L at least 2 (rows of "
            f"episodes one after another), got batch size {list(shape)}. Pack what the "
            "replay buffer returns with resel_torchrl.replay.pack_episodes(batch, "
            "row_length)."
        )
    if valid is None:
        raise KeyError(
            f"Expected the entry {valid_key!r} (bool [R, L, 1], true where a row holds "
            f"a transition), got only {sorted(map(str, tensordict.keys(True, True)))}. "
            "resel_torchrl.replay.pack_episodes writes it; loss.set_keys(valid=...) "
            "renames it."
        )
    return shape


def read_packed(
    tensordict: TensorDictBase,
    row_keys: Iterable[NestedKey],
    state_keys: Iterable[NestedKey] = (),
    *,
    action: NestedKey = "action",
    reward: NestedKey = "reward",
    terminated: NestedKey = "terminated",
    is_init: NestedKey = "is_init",
    valid: NestedKey = "valid",
) -> PackedBatch:
    """Check a packed batch and cut its padding out with ``torch.where``.

    The last row of an episode holds an observation and no transition. It stays in
    ``rows``; what it says about action, reward and end is ignored. Rows are told apart
    by ``valid`` alone: a row holds an observation if it is valid or follows a valid
    row. A transition in the last column has no successor and is left out.

    Args:
        tensordict: batch ``[R, L]``; it is not changed.
        row_keys: entries that networks read at every observation.
        state_keys: memories before the first column, ``[R, L, state_size]``, read there
            and where they are in the batch.
        action: key of the action ``[R, L, A]``; one-hot integers become floats.
        reward: key of the reward ``[R, L, 1]`` under ``"next"``, of the action's dtype.
        terminated: key of the end flag, bool ``[R, L, 1]``, under ``"next"``.
        is_init: key of the start flag, bool ``[R, L, 1]``.
        valid: key of the transition flag, bool ``[R, L, 1]``.

    Returns:
        The batch without its padding.

    Raises:
        ValueError: the batch is flat, or an entry has the wrong shape or dtype.
        KeyError: an entry is missing.

    Examples:
        >>> nan = float("nan")
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.tensor([[[1.0], [2.0], [nan]]]),
        ...         "action": torch.tensor([[[0.5], [nan], [nan]]]),
        ...         ("next", "reward"): torch.tensor([[[1.0], [nan], [nan]]]),
        ...         ("next", "terminated"): torch.ones(1, 3, 1, dtype=torch.bool),
        ...         "is_init": torch.tensor([[[True], [False], [True]]]),
        ...         "valid": torch.tensor([[[True], [False], [False]]]),
        ...     },
        ...     [1, 3],
        ... )
        >>> packed = read_packed(batch, ["observation"])
        >>> packed.rows["observation"].flatten().tolist(), packed.reward.tolist()
        ([1.0, 2.0, 0.0], [[1.0, 0.0]])
    """
    shape = _checked_shape(tensordict, valid)

    def read(key: NestedKey, *, column: bool = False, flag: bool = False) -> Tensor:
        value = tensordict.get(key, None)
        if value is None:
            present = ", ".join(sorted(map(str, tensordict.keys(True, True))))
            remedy = "Store it in the replay buffer, or rename it with loss.set_keys."
            if is_previous(key):
                remedy = (
                    f"pack_episodes writes it where {source_key(key)!r} is one of its "
                    "observation_keys, its action_key or its reward_key: record that "
                    "and pack it, or build the encoder without this input."
                )
            raise KeyError(
                f"Expected the entry {key!r} in the packed batch, got only {present}. "
                f"{remedy}"
            )
        expected = "[R, L, 1]" if column else "[R, L, ...]"
        fits = value.ndim >= 3 and value.shape[:2] == shape
        if not fits or (column and value.shape != (*shape, 1)):
            raise ValueError(
                f"Expected {key!r} of shape {expected} with [R, L] = {list(shape)}, "
                f"got {list(value.shape)}. Add the missing trailing dimension, or pack "
                "the batch with resel_torchrl.replay.pack_episodes."
            )
        if flag and value.dtype is not torch.bool:
            raise ValueError(
                f"Expected {key!r} of dtype torch.bool, got {value.dtype}. Convert it "
                "with .bool() before it is stored."
            )
        return value

    transitions = read(valid, column=True, flag=True)
    observed = observed_rows(transitions)
    start = read(is_init, column=True, flag=True)
    end = read(("next", terminated), column=True, flag=True)
    actions = read(action)
    rewards = read(("next", reward), column=True)
    if not actions.is_floating_point():
        actions = actions.to(rewards.dtype)  # one-hot, as TorchRL stores it
    if rewards.dtype != actions.dtype:
        raise ValueError(
            f"Expected {('next', reward)!r} of the action's dtype {actions.dtype}, got "
            f"{rewards.dtype}, which would be the dtype of the loss. Convert it before "
            "it is stored: append torchrl.envs.DoubleToFloat to the environment."
        )
    entries = {key: fill_outside(read(key), observed) for key in row_keys}
    entries[is_init] = fill_outside(start, observed, True)
    for key in state_keys:
        if tensordict.get(key, None) is not None:
            state = read(key)
            first = fill_outside(state[:, :1], observed[:, :1])
            entries[key] = first.expand_as(state)  # in the storage of one column
    return PackedBatch(
        rows=TensorDict(entries, batch_size=shape),
        action=fill_outside(actions, transitions)[:, :-1],
        reward=fill_outside(rewards, transitions)[:, :-1, 0],
        terminated=fill_outside(end, transitions)[:, :-1, 0],
        mask=transitions[:, :-1, 0],
    )
