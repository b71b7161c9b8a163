"""The loss of an agent, chosen by its algorithm."""

from __future__ import annotations

from typing import Any

from resel_torchrl.modules.agent import Agent
from resel_torchrl.objectives.discrete_resel import DiscreteRESeLLoss
from resel_torchrl.objectives.resel import RESeLLoss
from resel_torchrl.objectives.td3_resel import TD3RESeLLoss

__all__ = ["LOSSES", "Loss", "make_loss"]

Loss = RESeLLoss | DiscreteRESeLLoss | TD3RESeLLoss

#: Loss by the name of its algorithm.
LOSSES: dict[str, type[Loss]] = {
    "resel": RESeLLoss,
    "discrete_resel": DiscreteRESeLLoss,
    "td3_resel": TD3RESeLLoss,
}


def make_loss(agent: Agent, *, gamma: float = 0.99, **options: Any) -> Loss:
    """Build the loss of an agent on its networks.

    Args:
        agent: its algorithm chooses the loss.
        gamma: discount.
        **options: keyword arguments of the loss, such as ``critic_subset_size``.

    Examples:
        >>> from resel_torchrl.modules import make_agent
        >>> agent = make_agent(3, 2, algorithm="td3_resel", core="gru", n_critics=2)
        >>> type(make_loss(agent, gamma=0.9, target_noise=0.1)).__name__
        'TD3RESeLLoss'
    """
    loss = LOSSES[agent.algorithm](
        agent.actor,
        agent.critic,
        actor_encoder=agent.actor_encoder,
        critic_encoder=agent.critic_encoder,
        **options,
    )
    loss.make_value_estimator(gamma=gamma)
    return loss
