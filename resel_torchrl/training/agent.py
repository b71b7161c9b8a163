"""The four networks of an agent, put together from plain sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from resel_torchrl.modules import (
    ContextEncoder,
    EnsembleCritic,
    TanhNormalActor,
    context_inputs,
)

__all__ = ["Agent", "make_agent"]


@dataclass
class Agent:
    """Encoder and head of the actor, encoder and heads of the critic.

    >>> agent = make_agent(3, 1, core="gru", hidden_size=16, n_critics=2)
    >>> isinstance(agent, Agent), list(agent.modules())
    (True, ['actor_encoder', 'actor', 'critic_encoder', 'critic'])
    """

    actor_encoder: ContextEncoder
    actor: TanhNormalActor
    critic_encoder: ContextEncoder
    critic: EnsembleCritic

    def modules(self) -> dict[str, nn.Module]:
        """The four networks by name."""
        return {
            "actor_encoder": self.actor_encoder,
            "actor": self.actor,
            "critic_encoder": self.critic_encoder,
            "critic": self.critic,
        }


def make_agent(
    observation_size: int,
    action_size: int,
    *,
    core: str = "mamba",
    core_kwargs: Mapping[str, Any] | None = None,
    reward_input: bool = False,
    embedding_size: int = 128,
    hidden_size: int = 256,
    context_size: int = 128,
    head_sizes: Sequence[int] = (256, 256),
    n_critics: int = 8,
) -> Agent:
    """Builds the networks of RESeL (arXiv 2405.15384, section 4 and appendix).

    Actor and critic each own an encoder of the same make. Initial weights come from
    PyTorch's global generator.

    Args:
        observation_size: Entries of an observation.
        action_size: Entries of an action, each in [−1, 1].
        core: Sequence core of both encoders.
        core_kwargs: Options of the core.
        reward_input: Whether the previous reward is an input of the encoders.
        embedding_size: Width of each input's linear map.
        hidden_size: Width of the core.
        context_size: Size of the context.
        head_sizes: Hidden layers of the actor head and of each critic head.
        n_critics: Critic heads.

    >>> agent = make_agent(3, 1, core="gru", hidden_size=16, n_critics=2)
    >>> agent.actor_encoder.context_size
    128
    """
    inputs = context_inputs(observation_size, action_size, reward=reward_input)
    encoders = {
        role: ContextEncoder(
            inputs,
            core,
            embedding_size=embedding_size,
            hidden_size=hidden_size,
            context_size=context_size,
            core_kwargs=dict(core_kwargs or {}),
            out_key=f"context_{role}",
        )
        for role in ("actor", "critic")
    }
    return Agent(
        actor_encoder=encoders["actor"],
        actor=TanhNormalActor(
            observation_size,
            action_size,
            context_size,
            embedding_size=embedding_size,
            hidden_sizes=tuple(head_sizes),
        ),
        critic_encoder=encoders["critic"],
        critic=EnsembleCritic(
            observation_size,
            action_size,
            context_size,
            n_critics=n_critics,
            embedding_size=embedding_size,
            hidden_sizes=tuple(head_sizes),
        ),
    )
