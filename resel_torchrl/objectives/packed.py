"""What a loss is given: packed batches, read and checked, and checks of its actor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import Tensor, distributions, nn
from torchrl.data import Composite, TensorSpec

from resel_torchrl.modules.previous_step import is_previous, source_key
from resel_torchrl.objectives.functional import fill_outside, observed_rows


@dataclass(frozen=True)
class PackedBatch:
    """A packed batch of R rows of L steps, T = L - 1, without its padding.

    Attributes:
        rows: TensorDict ``[R, L]`` of all that is observed, zero at steps that hold no
            observation, and of the start flags, true there.
        action: ``[R, T, A]``, zero where no transition is.
        reward: ``[R, T]``, zero where no transition is.
        terminated: bool ``[R, T]``, false where no transition is.
        mask: bool ``[R, T]``, the transitions.

    Examples:
        >>> PackedBatch(
        ...     rows=TensorDict({"observation": torch.zeros(1, 2, 3)}, [1, 2]),
        ...     action=torch.zeros(1, 1, 2),
        ...     reward=torch.ones(1, 1),
        ...     terminated=torch.zeros(1, 1, dtype=torch.bool),
        ...     mask=torch.ones(1, 1, dtype=torch.bool),
        ... ).reward
        tensor([[1.]])
    """

    rows: TensorDict
    action: Tensor
    reward: Tensor
    terminated: Tensor
    mask: Tensor


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

    Steps are told apart by ``valid`` alone: one holds an observation if it is valid or
    follows a valid one. The last step of an episode stays in ``rows``; what it says
    about action, reward and end is ignored. A transition at the last step of a row has
    no successor and is left out.

    Args:
        tensordict: batch ``[R, L]``; it is not changed.
        row_keys: entries that networks read at every observation.
        state_keys: hidden states ``[R, L, state_size]`` before a row's first step, read
            there, where they are in the batch.
        action: key of the action ``[R, L, A]``; one-hot integers become floats.
        reward: key of the reward ``[R, L, 1]`` under ``"next"``, of the action's dtype.
        terminated: key of the end flag, bool ``[R, L, 1]``, under ``"next"``.
        is_init: key of the start flag, bool ``[R, L, 1]``.
        valid: key of the transition flag, bool ``[R, L, 1]``.

    Raises:
        ValueError: the batch is flat, or an entry has the wrong shape or dtype.
        KeyError: an entry is missing.

    Examples:
        >>> nan = torch.nan
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
    shape = _packed_shape(tensordict, valid)
    read = partial(_read, tensordict, shape)
    transitions = read(valid, column=True, flag=True)
    observed = observed_rows(transitions)
    start = read(is_init, column=True, flag=True)
    end = read(("next", terminated), column=True, flag=True)
    actions, rewards = read(action), read(("next", reward), column=True)
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
            entries[key] = first.expand_as(state)  # in the storage of one step
    return PackedBatch(
        rows=TensorDict(entries, batch_size=shape),
        action=fill_outside(actions, transitions)[:, :-1],
        reward=fill_outside(rewards, transitions)[:, :-1, 0],
        terminated=fill_outside(end, transitions)[:, :-1, 0],
        mask=transitions[:, :-1, 0],
    )


def _packed_shape(tensordict: TensorDictBase, valid_key: NestedKey) -> torch.Size:
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
            f"Expected the entry {valid_key!r} (bool [R, L, 1], true where a step "
            f"holds a transition), got only {present_keys(tensordict)}. "
            "resel_torchrl.replay.pack_episodes writes it; loss.set_keys(valid=...) "
            "renames it."
        )
    return shape


def _read(
    tensordict: TensorDictBase,
    shape: torch.Size,
    key: NestedKey,
    *,
    column: bool = False,
    flag: bool = False,
) -> Tensor:
    """An entry ``[R, L, ...]``; a column is ``[R, L, 1]``, a flag of dtype bool."""
    value = tensordict.get(key, None)
    if value is None:
        remedy = "Store it in the replay buffer, or rename it with loss.set_keys."
        if is_previous(key):
            remedy = (
                f"pack_episodes writes it where {source_key(key)!r} is one of its "
                "observation_keys, its action_key or its reward_key: record that "
                "and pack it, or build the encoder without this input."
            )
        raise KeyError(
            f"Expected the entry {key!r} in the packed batch, got only "
            f"{present_keys(tensordict)}. {remedy}"
        )
    fits = value.ndim >= 3 and value.shape[:2] == shape
    if not fits or (column and value.shape != (*shape, 1)):
        raise ValueError(
            f"Expected {key!r} of shape {'[R, L, 1]' if column else '[R, L, ...]'} "
            f"with [R, L] = {list(shape)}, got {list(value.shape)}. Add the missing "
            "trailing dimension, or pack the batch with "
            "resel_torchrl.replay.pack_episodes."
        )
    if flag and value.dtype is not torch.bool:
        raise ValueError(
            f"Expected {key!r} of dtype torch.bool, got {value.dtype}. Convert it "
            "with .bool() before it is stored."
        )
    return value


def present_keys(tensordict: TensorDictBase) -> str:
    """The entries of a batch, for an error."""
    return ", ".join(sorted(map(str, tensordict.keys(True, True))))


def action_key(actor: TensorDictModuleBase) -> NestedKey:
    """The entry that an actor, probabilistic or deterministic, writes its action to.

    Raises:
        ValueError: a deterministic head with several outputs.
    """
    keys = getattr(actor, "dist_sample_keys", actor.out_keys)
    if len(keys) != 1:
        raise ValueError(
            f"Expected an actor that writes one action, got out_keys {list(keys)}. Use "
            "resel_torchrl.modules.DeterministicActor, or wrap a network in "
            "torchrl.modules.Actor."
        )
    return keys[0]


def check_actor(actor: nn.Module) -> None:
    """Raise TypeError unless ``actor`` is probabilistic and draws one action."""
    probabilistic = isinstance(actor, ProbabilisticTensorDictSequential)
    if not probabilistic or len(actor.dist_sample_keys) != 1:
        raise TypeError(
            "Expected actor_network to be a ProbabilisticTensorDictSequential that "
            f"draws one action, got {type(actor).__name__}. Use "
            "resel_torchrl.modules.TanhNormalActor (or CategoricalActor), or wrap a "
            "network in torchrl.modules.ProbabilisticActor."
        )


DISCRETE_DISTRIBUTIONS = (
    distributions.Categorical,
    distributions.OneHotCategorical,
    distributions.Bernoulli,
)


def check_action_is_continuous(
    actor: TensorDictModuleBase, action_spec: TensorSpec | None = None
) -> None:
    """Raise ValueError if the specs or the actor's distribution are discrete.

    Args:
        actor: policy head.
        action_spec: spec given to the loss, with or without the action's key.
    """
    found = []
    for spec in (action_spec, getattr(actor, "spec", None)):
        leaf = spec.get(action_key(actor)) if isinstance(spec, Composite) else spec
        if leaf is not None and leaf.domain == "discrete":
            found.append(type(leaf).__name__)
    probabilistic = isinstance(actor, ProbabilisticTensorDictSequential)
    kind = getattr(actor[-1], "distribution_class", None) if probabilistic else None
    if isinstance(kind, type) and issubclass(kind, DISCRETE_DISTRIBUTIONS):
        found.append(kind.__name__)
    if found:
        raise ValueError(
            f"Expected continuous actions, got {found[0]}. This loss needs actions "
            "with a gradient, from a bounded continuous spec; choose a task with "
            "continuous actions, or DiscreteRESeLLoss."
        )


def check_temperature(
    alpha_init: float, min_alpha: float | None, max_alpha: float | None
) -> None:
    """Raise ValueError unless the first temperature is in its range."""
    low = 0.0 if min_alpha is None else min_alpha
    high = math.inf if max_alpha is None else max_alpha
    if not (alpha_init > 0 and low <= alpha_init <= high):
        raise ValueError(
            f"Expected alpha_init in [{low}, {high}], got {alpha_init}. Change it or "
            "the range."
        )
