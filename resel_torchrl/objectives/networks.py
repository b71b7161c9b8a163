"""Running the loss's networks on a batch under a given set of parameters."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode
from torchrl.objectives.sac import compute_rsample_log_prob


def _using(params: TensorDictBase | None, module: nn.Module) -> AbstractContextManager:
    """Context in which ``module`` runs with ``params``; with its own if ``None``.

    Exchanging parameters takes longer than a small network, so it is done for target
    and frozen parameters only. Without ``preserve_module_state=False``, tensordict
    would write new Parameters that require gradients back into ``params``.
    """
    if params is None:
        return nullcontext()
    return params.to_module(module, preserve_module_state=False)


def observed_keys(
    modules: Iterable[TensorDictModuleBase], written: Iterable[NestedKey]
) -> list[NestedKey]:
    """The entries that ``modules`` read from a batch at every observation.

    Args:
        modules: encoders and heads.
        written: keys that come from elsewhere: the contexts, the action, the flags.

    Returns:
        Keys in the order met, without ``written`` and without recurrent states, which
        are not read at every observation.

    Examples:
        >>> from resel_torchrl.modules import ContextEncoder, EnsembleCritic
        >>> encoder = ContextEncoder({"observation": 3, "prev_action": 2}, "gru")
        >>> observed_keys([encoder, EnsembleCritic(3, 2)], ["action", "is_init",
        ...     "context_critic"])
        ['observation', 'prev_action']
    """
    found = dict.fromkeys(
        key
        for module in modules
        for key in module.in_keys
        if key not in state_keys(module)
    )
    written = set(written)
    return [key for key in found if key not in written]


def state_keys(module: TensorDictModuleBase) -> list[NestedKey]:
    """The recurrent states of a module: what it reads and hands to the next step.

    Args:
        module: an encoder or a head.

    Examples:
        >>> from resel_torchrl.modules import ContextEncoder
        >>> state_keys(ContextEncoder({"observation": 3}, "gru"))
        ['context_actor_state']
    """
    following = set(module.out_keys)
    return [key for key in module.in_keys if unravel_key(("next", key)) in following]


def encode(
    encoder: TensorDictModuleBase,
    rows: TensorDictBase,
    key: NestedKey,
    params: TensorDictBase | None = None,
) -> Tensor:
    """Contexts of all rows: one pass of ``encoder`` in recurrent mode.

    Args:
        encoder: context encoder.
        rows: TensorDict ``[R, L]``; it is not changed.
        key: entry that the encoder writes the context to.
        params: parameters to run it with, its own by default.

    Returns:
        ``[R, L, C]``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from resel_torchrl.modules import ContextEncoder
        >>> encoder = ContextEncoder({"observation": 3}, "gru", context_size=5)
        >>> rows = TensorDict(
        ...     observation=torch.randn(2, 4, 3),
        ...     is_init=torch.zeros(2, 4, 1, dtype=torch.bool),
        ...     batch_size=[2, 4],
        ... )
        >>> encode(encoder, rows, "context_actor").shape
        torch.Size([2, 4, 5])
    """
    inputs = rows.select(*encoder.in_keys, strict=False)
    with set_recurrent_mode(True), _using(params, encoder):
        return encoder(inputs).get(key)


def act(
    actor: ProbabilisticTensorDictSequential, inputs: TensorDictBase
) -> tuple[Tensor, Tensor]:
    """Draw a reparameterised action at every row, with its log-probability.

    Args:
        actor: policy head.
        inputs: TensorDict ``[R, T]`` with the context in it.

    Returns:
        Actions ``[R, T, A]`` and log-probabilities ``[R, T]``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from resel_torchrl.modules import TanhNormalActor
        >>> actor = TanhNormalActor(3, 2, 5)
        >>> inputs = TensorDict(
        ...     observation=torch.ones(1, 4, 3),
        ...     context_actor=torch.ones(1, 4, 5),
        ...     batch_size=[1, 4],
        ... )
        >>> action, log_prob = act(actor, inputs)
        >>> action.shape, log_prob.shape
        (torch.Size([1, 4, 2]), torch.Size([1, 4]))
    """
    with set_exploration_type(ExplorationType.RANDOM):
        return compute_rsample_log_prob(actor.get_dist(inputs))


def action_distribution(
    actor: ProbabilisticTensorDictSequential, inputs: TensorDictBase
) -> tuple[Tensor, Tensor]:
    """Probability and log-probability of every discrete action at every row.

    Args:
        actor: policy head with a one-hot categorical distribution.
        inputs: TensorDict ``[R, T]`` with the context in it.

    Returns:
        Two tensors ``[R, T, A]``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from resel_torchrl.modules import CategoricalActor
        >>> inputs = TensorDict(
        ...     observation=torch.ones(1, 4, 3),
        ...     context_actor=torch.ones(1, 4, 5),
        ...     batch_size=[1, 4],
        ... )
        >>> probs, log_probs = action_distribution(CategoricalActor(3, 2, 5), inputs)
        >>> probs.shape, bool(torch.allclose(probs.log(), log_probs))
        (torch.Size([1, 4, 2]), True)
    """
    distribution = actor.get_dist(inputs)
    return distribution.probs, distribution.logits


def act_deterministically(
    actor: TensorDictModuleBase,
    inputs: TensorDictBase,
    key: NestedKey,
    params: TensorDictBase | None = None,
) -> Tensor:
    """The action at every row without exploration, with gradient.

    Args:
        actor: policy head.
        inputs: TensorDict ``[R, T]`` with the context in it; it is not changed.
        key: entry that the actor writes the action to.
        params: parameters to run it with, its own by default.

    Returns:
        Actions ``[R, T, A]``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from resel_torchrl.modules import DeterministicActor
        >>> inputs = TensorDict(
        ...     observation=torch.ones(1, 4, 3),
        ...     context_actor=torch.ones(1, 4, 5),
        ...     batch_size=[1, 4],
        ... )
        >>> act_deterministically(DeterministicActor(3, 2, 5), inputs, "action").shape
        torch.Size([1, 4, 2])
    """
    mode = set_exploration_type(ExplorationType.DETERMINISTIC)
    with mode, _using(params, actor):
        return actor(inputs.copy()).get(key)


def evaluate(
    critic: TensorDictModuleBase,
    inputs: TensorDictBase,
    key: NestedKey,
    params: TensorDictBase | None = None,
    *,
    actions: int | None = None,
) -> Tensor:
    """Values of every critic at every row.

    Args:
        critic: ensemble head.
        inputs: TensorDict ``[R, T]`` with the context and, where the critic reads it,
            the action.
        key: entry that the critic writes.
        params: parameters to run it with, its own by default.
        actions: number of discrete actions, if the critic has an output for each.

    Returns:
        ``[R, T, n_critics]``; ``[R, T, actions, n_critics]`` with ``actions``.

    Raises:
        ValueError: the critic writes another shape.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from resel_torchrl.modules import EnsembleCritic
        >>> critic = EnsembleCritic(3, 2, 5, n_critics=8)
        >>> inputs = TensorDict(
        ...     observation=torch.ones(1, 4, 3),
        ...     action=torch.ones(1, 4, 2),
        ...     context_critic=torch.ones(1, 4, 5),
        ...     batch_size=[1, 4],
        ... )
        >>> evaluate(critic, inputs, "state_action_value").shape
        torch.Size([1, 4, 8])
    """
    with _using(params, critic):
        values = critic(inputs).get(key)
    expected = ["n_critics"] if actions is None else [actions, "n_critics"]
    if values.shape[:-1] != (*inputs.batch_size, *expected[:-1]):
        kind = "EnsembleCritic" if actions is None else "DiscreteEnsembleCritic"
        raise ValueError(
            f"Expected {key!r} of shape {[*inputs.batch_size, *expected]}, got "
            f"{list(values.shape)}. Use resel_torchrl.modules.{kind}, or write "
            "the values of all critics along one last dimension."
        )
    return values
