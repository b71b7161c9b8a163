"""The networks of an agent, built from plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from resel_torchrl.modules.actor import Actor, TanhNormalActor
from resel_torchrl.modules.categorical_actor import CategoricalActor
from resel_torchrl.modules.context_encoder import ContextEncoder, context_inputs
from resel_torchrl.modules.deterministic_actor import DeterministicActor
from resel_torchrl.modules.ensemble_critic import DiscreteEnsembleCritic, EnsembleCritic

__all__ = ["Actor", "Agent", "make_agent"]

_HEADS: dict[str, tuple[type, type]] = {
    "resel": (TanhNormalActor, EnsembleCritic),
    "discrete_resel": (CategoricalActor, DiscreteEnsembleCritic),
    "td3_resel": (DeterministicActor, EnsembleCritic),
}


@dataclass
class Agent:
    """Encoder and head of the actor, encoder and ensemble of the critic.

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
        names = ("actor_encoder", "actor", "critic_encoder", "critic")
        return {name: getattr(self, name) for name in names}


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
    """Build the networks of RESeL (arXiv 2405.15384, section 4 and appendix).

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
        head_sizes: Hidden layers of the actor and of each critic.
        n_critics: Number of critics.
        algorithm: `resel`, `discrete_resel` (discrete actions) or `td3_resel`
            (deterministic actor).
        exploration_noise: Standard deviation of the noise with which `td3_resel`
            acts; None for 0.1.
        probability_floor: What `discrete_resel` adds to the probability of each
            action; None for 0.01.

    Raises:
        ValueError: For an unknown algorithm, or an option that its actor does not
            have.

    >>> agent = make_agent(3, 1, core="gru", hidden_size=16, n_critics=2)
    >>> agent.actor_encoder.context_size
    128
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

    def encoder(role: str) -> ContextEncoder:
        return ContextEncoder(
            context_inputs(observation_size, action_size, reward=reward_input),
            core,
            embedding_size=embedding_size,
            hidden_size=hidden_size,
            context_size=context_size,
            core_kwargs=core_kwargs,
            out_key=f"context_{role}",
        )

    make_actor, make_critic = _HEADS[algorithm]
    sizes = (observation_size, action_size, context_size)
    widths = {"embedding_size": embedding_size, "hidden_sizes": tuple(head_sizes)}
    # In this order, which decides what is drawn for which.
    actor_encoder, critic_encoder = encoder("actor"), encoder("critic")
    return Agent(
        actor_encoder=actor_encoder,
        actor=make_actor(*sizes, **widths, **actor_options),
        critic_encoder=critic_encoder,
        critic=make_critic(*sizes, n_critics=n_critics, **widths),
        algorithm=algorithm,
    )
