"""The standard inputs of a context encoder."""

from __future__ import annotations

from tensordict import NestedKey

__all__ = ["context_inputs"]


def context_inputs(
    observation_size: int, action_size: int, *, reward: bool = False
) -> dict[NestedKey, int]:
    """Return the standard inputs of a context encoder with their sizes.

    The encoder of arXiv 2405.15384 sees the observation, the previous observation
    and the previous action; in meta-RL the previous reward too.

    Args:
        observation_size: size of the observation.
        action_size: size of the action (one-hot where discrete).
        reward: add the previous reward.

    Returns:
        Entry name to size, for ``ContextEncoder(inputs=...)``.

    Example:
        >>> from resel_torchrl.modules import context_inputs
        >>> context_inputs(9, 6)
        {'observation': 9, 'prev_observation': 9, 'prev_action': 6}
        >>> list(context_inputs(9, 6, reward=True))[-1]
        'prev_reward'
    """
    inputs: dict[NestedKey, int] = {
        "observation": observation_size,
        "prev_observation": observation_size,
        "prev_action": action_size,
    }
    if reward:
        inputs["prev_reward"] = 1
    return inputs
