"""The acting policy: an encoder and a head that write an action."""

from __future__ import annotations

from tensordict.nn import TensorDictSequential

from resel_torchrl.modules.actor import TanhNormalActor
from resel_torchrl.modules.categorical_actor import CategoricalActor
from resel_torchrl.modules.context_encoder import ContextEncoder
from resel_torchrl.modules.deterministic_actor import DeterministicActor

__all__ = ["make_policy"]


def make_policy(
    actor_encoder: ContextEncoder,
    actor: TanhNormalActor | CategoricalActor | DeterministicActor,
) -> TensorDictSequential:
    """Join encoder and head into a policy for collectors and environments.

    It shares its parameters with both and writes the action and the encoder's next
    memory only: contexts and distribution parameters would fill the replay buffer.

    Args:
        actor_encoder: writes the context.
        actor: head that reads the context among its ``in_keys``.

    Returns:
        The policy. ``Collector(env, policy, auto_register_policy_transforms=True)``
        needs nothing else.

    Raises:
        ValueError: if the head does not read the context that the encoder writes.

    Example:
        >>> from resel_torchrl.modules import (
        ...     ContextEncoder,
        ...     TanhNormalActor,
        ...     context_inputs,
        ...     make_policy,
        ... )
        >>> policy = make_policy(
        ...     ContextEncoder(context_inputs(3, 1), "gru", context_size=8),
        ...     TanhNormalActor(3, 1, context_size=8),
        ... )
        >>> policy.out_keys
        ['action', ('next', 'context_actor_state')]
    """
    if actor_encoder.out_key not in actor.in_keys:
        raise ValueError(
            f"actor: expected {actor_encoder.out_key!r}, the encoder's context, among "
            f"the head's in_keys, got {actor.in_keys}. Pass context_key="
            f"{actor_encoder.out_key!r} to the actor, or out_key to the encoder."
        )
    action_keys = getattr(actor, "dist_sample_keys", actor.out_keys)
    return TensorDictSequential(
        actor_encoder,
        actor,
        selected_out_keys=[*action_keys, *actor_encoder.out_keys[1:]],
    )
