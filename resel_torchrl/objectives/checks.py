"""Errors of configuration, raised while a loss is built."""

from __future__ import annotations

from collections.abc import Mapping

from tensordict import NestedKey
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import distributions, nn
from torchrl.data import Composite, TensorSpec

DISCRETE_DISTRIBUTIONS = (
    distributions.Categorical,
    distributions.OneHotCategorical,
    distributions.Bernoulli,
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
            "resel_torchrl.modules.TanhNormalActor, or wrap a network in "
            "torchrl.modules.ProbabilisticActor."
        )


def check_action_is_continuous(
    actor: ProbabilisticTensorDictSequential, action_spec: TensorSpec | None
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
    action_key = actor.dist_sample_keys[0]
    found = []
    for spec in (action_spec, getattr(actor, "spec", None)):
        leaf = spec.get(action_key) if isinstance(spec, Composite) else spec
        if leaf is not None and leaf.domain == "discrete":
            found.append(type(leaf).__name__)
    kind = getattr(actor[-1], "distribution_class", None)
    if isinstance(kind, type) and issubclass(kind, DISCRETE_DISTRIBUTIONS):
        found.append(kind.__name__)
    if found:
        raise ValueError(
            f"Expected continuous actions, got {found[0]}. This loss draws "
            "reparameterised actions from a bounded continuous spec; choose a task "
            "with continuous actions, or a loss for discrete ones."
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


def check_subset_size(n_critics: int, size: int) -> None:
    """Raise unless a subset of ``size`` can be drawn from ``n_critics``.

    Args:
        n_critics: members of the ensemble.
        size: critics in the minimum of the target.

    Raises:
        ValueError: it cannot.

    Examples:
        >>> check_subset_size(8, 2)
    """
    if not 1 <= size <= n_critics:
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
