"""The four networks of an agent and their loss, put together from plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from resel_torchrl.modules.actor import TanhNormalActor
from resel_torchrl.modules.categorical_actor import CategoricalActor
from resel_torchrl.modules.context_encoder import ContextEncoder, context_inputs
from resel_torchrl.modules.deterministic_actor import DeterministicActor
from resel_torchrl.modules.ensemble_critic import DiscreteEnsembleCritic, EnsembleCritic

__all__ = ["Actor", "Agent", "make_agent"]

Actor = TanhNormalActor | CategoricalActor | DeterministicActor

_HEADS: dict[str, tuple[type, type]] = {
    "resel": (TanhNormalActor, EnsembleCritic),
    "discrete_resel": (CategoricalActor, DiscreteEnsembleCritic),
    "td3_resel": (DeterministicActor, EnsembleCritic),
}


@dataclass
class Agent:
    """Encoder and head of the actor, encoder and heads of the critic.

    >>> agent = make_agent(3, 1, core="gru", hidden_size=16, n_critics=2)
    >>> isinstance(agent, Agent), list(agent.modules())
    (True, ['actor_encoder', 'actor', 'critic_encoder', 'critic'])
    """

    actor_encoder: ContextEncoder
    actor: Actor
    critic_encoder: ContextEncoder
    critic: EnsembleCritic | DiscreteEnsembleCritic
    algorithm: str = "resel"

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
    algorithm: str = "resel",
    exploration_noise: float | None = None,
    probability_floor: float | None = None,
) -> Agent:
    """Builds the networks of RESeL (arXiv 2405.15384, section 4 and appendix).

    Actor and critic each own an encoder of the same make. Initial weights come from
    PyTorch's global generator.

    Args:
        observation_size: Entries of an observation.
        action_size: Entries of an action, each in [−1, 1], or number of discrete
            actions.
        core: Sequence core of both encoders.
        core_kwargs: Options of the core.
        reward_input: Whether the previous reward is an input of the encoders.
        embedding_size: Width of each input's linear map.
        hidden_size: Width of the core.
        context_size: Size of the context.
        head_sizes: Hidden layers of the actor head and of each critic head.
        n_critics: Critic heads.
        algorithm: What the heads are for: `resel`, `discrete_resel` (discrete actions)
            or `td3_resel` (deterministic actor).
        exploration_noise: Of `td3_resel`: standard deviation of the noise that acting
            adds; None takes 0.1.
        probability_floor: Of `discrete_resel`: what is added to the probability of each
            action; None takes 0.01.

    Raises:
        ValueError: From an unknown algorithm, or an option that its actor does not
            have.

    >>> agent = make_agent(3, 1, core="gru", hidden_size=16, n_critics=2)
    >>> agent.actor_encoder.context_size
    128
    >>> small = dict(core="gru", hidden_size=16, n_critics=2)
    >>> type(make_agent(3, 2, algorithm="discrete_resel", **small).actor).__name__
    'CategoricalActor'
    """
    if algorithm not in _HEADS:
        raise ValueError(
            f"algorithm: expected one of {', '.join(_HEADS)}, got {algorithm!r}."
        )
    actor_options = {}
    for owner, name, value in (
        ("td3_resel", "exploration_noise", exploration_noise),
        ("discrete_resel", "probability_floor", probability_floor),
    ):
        if value is None:
            continue
        if algorithm != owner:
            raise ValueError(
                f"{name}: expected None, as the actor of {algorithm} has none, got "
                f"{value}; leave it out, or take algorithm={owner!r}."
            )
        actor_options[name] = value
    make_actor, make_critic = _HEADS[algorithm]
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
        actor=make_actor(
            observation_size,
            action_size,
            context_size,
            embedding_size=embedding_size,
            hidden_sizes=tuple(head_sizes),
            **actor_options,
        ),
        critic_encoder=encoders["critic"],
        critic=make_critic(
            observation_size,
            action_size,
            context_size,
            n_critics=n_critics,
            embedding_size=embedding_size,
            hidden_sizes=tuple(head_sizes),
        ),
        algorithm=algorithm,
    )
