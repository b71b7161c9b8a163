"""Reading a packed batch: what the losses take, checked and free of padding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import Tensor, distributions, nn
from torchrl import modules as torchrl_modules
from torchrl.data import Composite, TensorSpec
from torchrl.objectives import ValueEstimators

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


DISCRETE_DISTRIBUTIONS = (
    distributions.Categorical,
    distributions.OneHotCategorical,
    distributions.Bernoulli,
)
ONE_HOT_DISTRIBUTIONS = (
    torchrl_modules.OneHotCategorical,
    distributions.OneHotCategorical,
)


def check_actor(actor: nn.Module) -> None:
    """Raise unless ``actor`` is a probabilistic module that draws one action.

    Args:
        actor: the module given as ``actor_network``.

    Raises:
        TypeError: it is not.

    Examples:
        >>> check_actor(nn.Linear(1, 1))
        Traceback (most recent call last):
            ...
        TypeError: Expected actor_network to be a ProbabilisticTensorDictSequential ...
    """
    probabilistic = isinstance(actor, ProbabilisticTensorDictSequential)
    if not probabilistic or len(actor.dist_sample_keys) != 1:
        raise TypeError(
            "Expected actor_network to be a ProbabilisticTensorDictSequential that "
            f"draws one action, got {type(actor).__name__}. Use "
            "resel_torchrl.modules.TanhNormalActor (or CategoricalActor), or wrap a "
            "network in torchrl.modules.ProbabilisticActor."
        )


def check_action_is_continuous(
    actor: TensorDictModuleBase, action_spec: TensorSpec | None
) -> None:
    """Raise if the action is discrete, going by its specs and its distribution.

    Args:
        actor: policy head.
        action_spec: spec given to the loss, with or without the action's key.

    Raises:
        ValueError: the action is discrete.

    Examples:
        >>> from resel_torchrl.modules import TanhNormalActor
        >>> from torchrl.data import OneHot
        >>> check_action_is_continuous(TanhNormalActor(3, 2), None)
        >>> check_action_is_continuous(TanhNormalActor(3, 2), OneHot(2))
        Traceback (most recent call last):
            ...
        ValueError: Expected continuous actions, got OneHot...
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


def check_action_is_one_hot(actor: ProbabilisticTensorDictSequential) -> None:
    """Raise unless the actor draws one of several actions, one-hot.

    Args:
        actor: policy head.

    Raises:
        ValueError: its distribution is another.

    Examples:
        >>> from resel_torchrl.modules import CategoricalActor, TanhNormalActor
        >>> check_action_is_one_hot(CategoricalActor(3, 2))
        >>> check_action_is_one_hot(TanhNormalActor(3, 2))
        Traceback (most recent call last):
            ...
        ValueError: Expected a one-hot categorical distribution of actions, got ...
    """
    kind = getattr(actor[-1], "distribution_class", None)
    if not (isinstance(kind, type) and issubclass(kind, ONE_HOT_DISTRIBUTIONS)):
        raise ValueError(
            "Expected a one-hot categorical distribution of actions, got "
            f"{getattr(kind, '__name__', kind)}. Use "
            "resel_torchrl.modules.CategoricalActor, or a ProbabilisticActor with "
            "distribution_class=torchrl.modules.OneHotCategorical; for continuous "
            "actions take RESeLLoss."
        )


def action_key(actor: TensorDictModuleBase) -> NestedKey:
    """The entry that an actor writes its action to.

    Args:
        actor: policy head, probabilistic or deterministic.

    Raises:
        ValueError: a deterministic head with several outputs.

    Examples:
        >>> from resel_torchrl.modules import DeterministicActor, TanhNormalActor
        >>> action_key(TanhNormalActor(3, 2)), action_key(DeterministicActor(3, 2))
        ('action', 'action')
    """
    keys = getattr(actor, "dist_sample_keys", actor.out_keys)
    if len(keys) != 1:
        raise ValueError(
            f"Expected an actor that writes one action, got out_keys {list(keys)}. Use "
            "resel_torchrl.modules.DeterministicActor, or wrap a network in "
            "torchrl.modules.Actor."
        )
    return keys[0]


def check_temperature(
    alpha_init: float, min_alpha: float | None, max_alpha: float | None
) -> None:
    """Raise ValueError unless the first temperature is in its range.

    Examples:
        >>> check_temperature(1.0, None, 2.0)
        >>> check_temperature(3.0, 0.5, 2.0)
        Traceback (most recent call last):
        ...
        ValueError: Expected alpha_init in [0.5, 2.0], got 3.0. Change it or the range.
    """
    low = 0.0 if min_alpha is None else min_alpha
    high = math.inf if max_alpha is None else max_alpha
    if not (alpha_init > 0 and low <= alpha_init <= high):
        raise ValueError(
            f"Expected alpha_init in [{low}, {high}], got {alpha_init}. Change it or "
            "the range."
        )


def check_reduction(reduction: str) -> None:
    """Raise unless ``reduction`` is ``"mean"``, ``"sum"`` or ``"none"``.

    Args:
        reduction: as given to a loss.

    Raises:
        ValueError: it is another.

    Examples:
        >>> check_reduction("mean")
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(
            f"Expected reduction 'mean', 'sum' or 'none', got {reduction!r}."
        )


def check_one_step(
    value_type: ValueEstimators | None, hyperparams: Mapping[str, object]
) -> None:
    """Raise unless a value estimator is the one-step one, with a discount at most.

    Args:
        value_type: as given to ``make_value_estimator``.
        hyperparams: likewise.

    Raises:
        NotImplementedError: another estimator or hyper-parameter, which the target of
            RESeL has no place for.

    Examples:
        >>> check_one_step(ValueEstimators.TD0, {"gamma": 0.99})
    """
    unknown = sorted(set(hyperparams) - {"gamma", "device"})
    if value_type not in (None, ValueEstimators.TD0) or unknown:
        raise NotImplementedError(
            "Expected make_value_estimator(gamma=...): RESeL's target is the "
            f"one-step target (ValueEstimators.TD0), got {value_type} with "
            f"{unknown or 'no other options'}. Override the method that computes the "
            "target in a subclass for another one."
        )


def check_modules_are_separate(
    actor_side: Mapping[str, nn.Module], critic_side: Mapping[str, nn.Module]
) -> None:
    """Raise if the actor's and the critic's side share a trainable parameter.

    Args:
        actor_side: module by its name in the loss.
        critic_side: module by its name in the loss.

    Raises:
        ValueError: a parameter is in both.

    Examples:
        >>> check_modules_are_separate({"a": nn.Linear(1, 1)}, {"b": nn.Linear(1, 1)})
    """
    owner = {
        parameter: f"{module_name}.{name}"
        for module_name, module in actor_side.items()
        for name, parameter in module.named_parameters()
    }
    for module_name, module in critic_side.items():
        for name, parameter in module.named_parameters():
            if parameter in owner:
                raise ValueError(
                    "Expected actor and critic to have parameters of their own, got "
                    f"{module_name}.{name}, which is also {owner[parameter]}. Build a "
                    "second module (copy.deepcopy copies one with its weights)."
                )


def check_subset_size(critic: nn.Module, size: int) -> None:
    """Raise unless a subset of ``size`` can be drawn from the critics.

    Args:
        critic: the ensemble; one that does not tell its ``n_critics`` is not checked.
        size: critics in the minimum of the target.

    Raises:
        ValueError: it cannot.

    Examples:
        >>> from resel_torchrl.modules import EnsembleCritic
        >>> check_subset_size(EnsembleCritic(3, 2, n_critics=8), 2)
    """
    n_critics = getattr(critic, "n_critics", None)
    if n_critics is not None and not 1 <= size <= n_critics:
        raise ValueError(
            f"Expected critic_subset_size between 1 and the number of critics, "
            f"{n_critics}, got {size}. Pass another critic_subset_size, or build the "
            "critic with more members: EnsembleCritic(..., n_critics=...)."
        )


def context_key(
    encoder: TensorDictModuleBase, head: TensorDictModuleBase, side: str
) -> NestedKey:
    """The entry that ``encoder`` writes and ``head`` reads.

    Args:
        encoder: a context encoder.
        head: the actor or critic on top of it.
        side: ``"actor"`` or ``"critic"``, for the error.

    Returns:
        The key.

    Raises:
        ValueError: there is not exactly one such entry.

    Examples:
        >>> from resel_torchrl.modules import ContextEncoder, TanhNormalActor
        >>> encoder = ContextEncoder({"observation": 3}, "gru", context_size=5)
        >>> context_key(encoder, TanhNormalActor(3, 2, 5), "actor")
        'context_actor'
    """
    shared = [key for key in encoder.out_keys if key in head.in_keys]
    if len(shared) != 1:
        raise ValueError(
            f"Expected the {side} head to read the one context of its encoder, got "
            f"in_keys {list(head.in_keys)} of the head and out_keys "
            f"{list(encoder.out_keys)} of the encoder. Give both the same key: "
            "ContextEncoder(..., out_key=...) and the head's context_key."
        )
    return shared[0]
