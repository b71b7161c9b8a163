"""Random episodes, the packed batch they make, and where each of them lies in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from resel_torchrl.modules import (
    CategoricalActor,
    ContextEncoder,
    DeterministicActor,
    DiscreteEnsembleCritic,
    EnsembleCritic,
    TanhNormalActor,
    context_inputs,
)
from resel_torchrl.objectives import DiscreteRESeLLoss, RESeLLoss, TD3RESeLLoss
from resel_torchrl.replay import pack_episodes

LOSSES = {
    "resel": RESeLLoss,
    "discrete_resel": DiscreteRESeLLoss,
    "td3_resel": TD3RESeLLoss,
}
ALGORITHMS = list(LOSSES)
OBSERVATION, ACTION, CRITICS, CONTEXT = 3, 2, 4, 5
N_ACTIONS = 3  # where they are discrete
LENGTHS, ROW_LENGTH = [4, 1, 6, 2, 3], 13  # several episodes in each row
CORE_OPTIONS = {
    "mamba": {"d_state": 3, "d_conv": 3},
    "transformer": {"n_layers": 2, "n_heads": 2, "max_length": 20},
}


def is_discrete(algorithm: str) -> bool:
    return algorithm == "discrete_resel"


@dataclass
class Episode:
    """T transitions and T + 1 observations."""

    observation: Tensor  # [T + 1, OBSERVATION]
    action: Tensor  # [T, ACTION], or one-hot [T, N_ACTIONS]
    reward: Tensor  # [T]
    terminated: bool

    def __len__(self) -> int:
        return len(self.action)

    def previous(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """Observation, action and reward before step t: zeros before the first."""
        if t == 0:
            nothing = torch.zeros_like(self.action[0])
            return torch.zeros(OBSERVATION), nothing, torch.zeros(1)
        return self.observation[t - 1], self.action[t - 1], self.reward[t - 1 : t]


def make_episodes(lengths, seed=0, scale=1.0, *, discrete=False) -> list[Episode]:
    """Episodes of the given lengths; every second one ends in a terminal state.

    ``scale`` multiplies observations only, so a larger one leads to bootstraps beyond
    those met before.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    def actions(length):
        if not discrete:
            return draw(length, ACTION).tanh()
        return torch.eye(N_ACTIONS)[draw(length, N_ACTIONS).argmax(-1)]

    return [
        Episode(
            scale * draw(length + 1, OBSERVATION),
            actions(length),
            0.1 * draw(length),
            terminated=index % 2 == 0,
        )
        for index, length in enumerate(lengths)
    ]


def flatten(episodes: list[Episode]) -> TensorDict:
    """The flat batch ``[N]`` that a sampler returns."""
    parts = []
    for episode in episodes:
        size = len(episode)
        last = torch.zeros(size, 1, dtype=torch.bool)
        last[-1] = True
        first = torch.zeros(size, 1, dtype=torch.bool)
        first[0] = True
        parts.append(
            TensorDict(
                {
                    "observation": episode.observation[:-1],
                    "action": episode.action,
                    "is_init": first,
                    "next": {
                        "observation": episode.observation[1:],
                        "reward": episode.reward.unsqueeze(-1),
                        "done": last,
                        "terminated": last & episode.terminated,
                        "truncated": last & (not episode.terminated),
                    },
                },
                [size],
            )
        )
    return torch.cat(parts)


def pack(episodes: list[Episode], row_length: int) -> TensorDict:
    return pack_episodes(flatten(episodes), row_length)


def locate(batch: TensorDict, episodes: list[Episode]) -> list[tuple[int, int]]:
    """Row and first column of each episode, found by its first observation."""
    found = []
    for episode in episodes:
        same = (batch["observation"] == episode.observation[0]).all(-1)
        same &= (batch["is_init"] & batch["valid"]).squeeze(-1)
        ((row, column),) = same.nonzero().tolist()
        found.append((row, column))
    return found


def make_modules(core="gru", seed=0, *, reward=False, algorithm="resel") -> dict:
    """Small networks of a loss, every parameter moved off its starting symmetry.

    With ``reward`` the previous reward is an input of both encoders.
    """
    torch.manual_seed(seed)
    make_actor, make_critic = {
        "resel": (TanhNormalActor, EnsembleCritic),
        "discrete_resel": (CategoricalActor, DiscreteEnsembleCritic),
        "td3_resel": (DeterministicActor, EnsembleCritic),
    }[algorithm]
    action = N_ACTIONS if is_discrete(algorithm) else ACTION

    def encoder(key):
        return ContextEncoder(
            context_inputs(OBSERVATION, action, reward=reward),
            core,
            embedding_size=4,
            hidden_size=6,
            context_size=CONTEXT,
            core_kwargs=CORE_OPTIONS.get(core),
            out_key=key,
        )

    sizes = {"embedding_size": 4, "hidden_sizes": (7, 7)}
    modules = {
        "actor_network": make_actor(OBSERVATION, action, CONTEXT, **sizes),
        "qvalue_network": make_critic(
            OBSERVATION, action, CONTEXT, n_critics=CRITICS, **sizes
        ),
        "actor_encoder": encoder("context_actor"),
        "critic_encoder": encoder("context_critic"),
    }
    for module in modules.values():
        for parameter in module.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return modules


def make_loss(core="gru", seed=0, *, algorithm="resel", **options):
    """A loss on small networks."""
    modules = make_modules(core, seed, algorithm=algorithm)
    return LOSSES[algorithm](**modules, **options)


def targets(loss, batch) -> Tensor:
    """The target of every transition, ``[R, T]``."""
    batch = loss.read(batch)
    contexts = [begun()[:, 1:] for begun in loss._start_target(batch.rows)]
    return loss._target(batch, *contexts)[0]


def total(terms) -> Tensor:
    """The sum of all losses among the terms."""
    return sum(value for key, value in terms.items() if key.startswith("loss_"))
