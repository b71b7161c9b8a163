"""Small networks, losses and agents to split into groups."""

import torch
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn

from resel_torchrl.modules import (
    ContextEncoder,
    EnsembleCritic,
    TanhNormalActor,
    context_inputs,
    make_policy,
)
from resel_torchrl.objectives import RESeLLoss

RATES = {
    "lr_context_encoder": 1e-5,
    "lr_actor": 3e-4,
    "lr_critic": 1e-3,
    "lr_alpha": 1e-4,
}


def make_encoder(side="actor", core="gru"):
    return ContextEncoder(
        context_inputs(4, 2),
        core,
        embedding_size=5,
        hidden_size=8,
        context_size=3,
        out_key=f"context_{side}",
    )


def make_actor():
    return TanhNormalActor(4, 2, context_size=3, hidden_sizes=(6,))


def make_critic(**kwargs):
    return EnsembleCritic(
        4, 2, context_size=3, n_critics=2, hidden_sizes=(6,), **kwargs
    )


def make_resel_loss(actor_encoder=None, critic_encoder=None, **kwargs):
    return RESeLLoss(
        make_actor(),
        make_critic(),
        actor_encoder=actor_encoder or make_encoder(),
        critic_encoder=critic_encoder or make_encoder("critic"),
        **kwargs,
    )


class SingleValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4 + 3 + 2, 1)

    def forward(self, *inputs):
        return self.layer(torch.cat(inputs, -1))


def value_network(encoder):
    head = TensorDictModule(
        SingleValue(),
        in_keys=["observation", encoder.out_key, "action"],
        out_keys=["state_action_value"],
    )
    return TensorDictSequential(encoder, head)


def make_policy_network(encoder):
    return ProbabilisticTensorDictSequential(encoder, *make_actor().module)


class Agent(nn.Module):
    def __init__(self, core="gru"):
        super().__init__()
        self.memory = make_encoder(core=core)
        self.head = nn.Linear(3, 2)


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.policy = make_policy(make_encoder(), make_actor())
        self.critic = make_critic()
        self.memory = make_encoder("critic")
        self.scale = nn.Parameter(torch.ones(1))
