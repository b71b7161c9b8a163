"""The acting policy: an encoder and a head that write an action."""

from __future__ import annotations

from tensordict.nn import TensorDictSequential

from resel_torchrl.modules.actor import Actor
from resel_torchrl.modules.context_encoder import ContextEncoder

__all__ = ["make_policy"]


def make_policy(actor_encoder: ContextEncoder, actor: Actor) -> TensorDictSequential:
    """Join encoder and head into a policy for collectors and environments.

    It shares its parameters with both and writes the action and the encoder's next
    hidden state only: contexts and distribution parameters would fill the replay
    buffer.

    Args:
        actor_encoder: writes the context.
        actor: head that reads the context among its ``in_keys``.

    Returns:
        The policy. ``Collector(env, policy, auto_register_policy_transforms=True)``
        needs nothing else.

    Raises:
        ValueError: if the head does not read the context that the encoder writes.

    Example:
        >>> from resel_torchrl.modules import make_agent, make_policy
        >>> agent = make_agent(3, 1, core="gru")
        >>> make_policy(agent.actor_encoder, agent.actor).out_keys
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
