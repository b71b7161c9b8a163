"""Which group each parameter is in."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torchrl.objectives import SACLoss

from resel_torchrl.modules import (
    CategoricalActor,
    DeterministicActor,
    DiscreteEnsembleCritic,
    EnsembleCritic,
)
from resel_torchrl.optim import parameter_groups
from tests.optim.parts import (
    RATES,
    ActorCritic,
    Agent,
    make_encoder,
    make_policy_network,
    make_resel_loss,
    value_network,
)


def by_name(groups):
    return {group["name"]: group for group in groups}


def ids(parameters):
    return {id(p) for p in parameters}


def assert_a_partition(groups, module):
    """Every trainable parameter of ``module`` is in exactly one group."""
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == ids(p for p in module.parameters() if p.requires_grad)


def test_resel_loss_is_split_by_part():
    actor_encoder, critic_encoder = make_encoder(), make_encoder("critic")
    loss = make_resel_loss(actor_encoder, critic_encoder)
    groups = parameter_groups(loss, **RATES)
    assert_a_partition(groups, loss)
    named = by_name(groups)
    assert list(named) == [
        "context_encoder_actor",
        "context_encoder_critic",
        "actor",
        "critic",
        "alpha",
    ]
    trunk = ids(actor_encoder.trunk.parameters())
    assert ids(named["context_encoder_actor"]["params"]) == trunk
    trunk = ids(critic_encoder.trunk.parameters())
    assert ids(named["context_encoder_critic"]["params"]) == trunk
    assert ids(actor_encoder.pre_encoders.parameters()) < ids(named["actor"]["params"])
    assert ids(critic_encoder.pre_encoders.parameters()) < ids(
        named["critic"]["params"]
    )
    assert named["alpha"]["params"][0] is loss.log_alpha
    rates = {name: group["lr"] for name, group in named.items()}
    assert rates == {
        "context_encoder_actor": 1e-5,
        "context_encoder_critic": 1e-5,
        "actor": 3e-4,
        "critic": 1e-3,
        "alpha": 1e-4,
    }


@pytest.mark.parametrize("core", ["gru", "mamba", "memoryless"])
def test_one_adamw_step_moves_each_part_by_its_learning_rate(core):
    encoder = make_encoder(core=core)
    loss = make_resel_loss(encoder, make_encoder("critic", core))
    groups = parameter_groups(loss, **RATES)
    optimizer = torch.optim.AdamW(groups)
    before = {p: p.detach().clone() for p in loss.parameters()}
    for p in loss.parameters():
        p.grad = torch.randn_like(p).sign() * (1 + torch.rand_like(p))
    optimizer.step()
    for group in groups:
        for p in group["params"]:
            # AdamW's first step is lr * sign(gradient), without weight decay.
            moved = before[p] - p.detach()
            expected = group["lr"] * p.grad.sign()
            torch.testing.assert_close(moved, expected, atol=3e-7, rtol=1e-3)
    moved = [(before[p] - p).abs().max().item() for p in encoder.trunk.parameters()]
    assert moved == pytest.approx([1e-5] * len(moved), rel=0.1)


def test_optimizer_settings_are_the_papers():
    group = torch.optim.AdamW(
        parameter_groups(make_resel_loss(), **RATES)
    ).param_groups[0]
    assert group["betas"] == (0.9, 0.999)
    assert group["eps"] == 1e-8
    assert group["weight_decay"] == 0


@pytest.mark.parametrize("kwargs", [{"num_qvalue_nets": 2}, {"num_qvalue_nets": None}])
def test_stock_sac_loss_with_encoders_inside_its_networks(kwargs):
    actor_encoder, critic_encoder = make_encoder(), make_encoder("critic")
    actor = make_policy_network(actor_encoder)
    loss = SACLoss(actor, value_network(critic_encoder), **kwargs)
    groups = parameter_groups(loss, **RATES)
    assert_a_partition(groups, loss)
    named = by_name(groups)
    assert ids(named["context_encoder_actor"]["params"]) == ids(
        actor_encoder.trunk.parameters()
    )
    n_trunk = len(list(critic_encoder.trunk.parameters()))
    assert len(named["context_encoder_critic"]["params"]) == n_trunk
    assert len(named["critic"]["params"]) == 2 + len(
        list(critic_encoder.pre_encoders.parameters())
    )


@pytest.mark.parametrize("separate_losses", [False, True])
def test_parameters_shared_by_actor_and_critic_are_in_one_group(separate_losses):
    encoder = make_encoder()
    loss = SACLoss(
        make_policy_network(encoder),
        value_network(encoder),
        num_qvalue_nets=None,
        separate_losses=separate_losses,
    )
    groups = parameter_groups(loss, **RATES)
    assert_a_partition(groups, loss)
    named = by_name(groups)
    # With separate losses the critic gets detached copies: the actor's own remain.
    side = "actor" if separate_losses else "critic"
    assert ids(named[f"context_encoder_{side}"]["params"]) == ids(
        encoder.trunk.parameters()
    )
    assert ids(encoder.pre_encoders.parameters()) < ids(named[side]["params"])


def test_a_claim_decides_for_shared_parameters():
    encoder = make_encoder()
    loss = SACLoss(
        make_policy_network(encoder), value_network(encoder), num_qvalue_nets=None
    )
    named = by_name(parameter_groups(loss, **RATES, actor=encoder))
    assert "context_encoder_critic" not in named
    assert ids(encoder.pre_encoders.parameters()) < ids(named["actor"]["params"])


def test_a_users_module_with_one_side():
    agent = Agent()
    groups = parameter_groups(agent, lr_context_encoder=1e-5, lr_actor=1e-3)
    assert_a_partition(groups, agent)
    named = by_name(groups)
    assert set(named) == {"context_encoder_actor", "actor"}
    assert ids(named["actor"]["params"]) == ids(
        [*agent.memory.pre_encoders.parameters(), *agent.head.parameters()]
    )
    named = by_name(parameter_groups(agent, lr_context_encoder=1e-5, lr_critic=1e-3))
    assert set(named) == {"context_encoder_critic", "critic"}


@pytest.mark.parametrize("how", ["names", "modules"])
def test_a_users_module_with_both_sides_names_what_is_not_ours(how):
    agent = ActorCritic()
    if how == "names":
        claims = {"actor": "policy", "critic": ("memory", "scale")}
    else:
        claims = {"actor": agent.policy, "critic": (agent.memory, agent.scale)}
    groups = parameter_groups(agent, **RATES, **claims)
    assert_a_partition(groups, agent)
    named = by_name(groups)
    assert ids(named["critic"]["params"]) == ids(
        [
            agent.scale,
            *agent.critic.parameters(),
            *agent.memory.pre_encoders.parameters(),
        ]
    )
    assert len(named["context_encoder_critic"]["params"]) == len(
        list(agent.memory.trunk.parameters())
    )


@pytest.mark.parametrize(
    ("actor", "critic"),
    [
        (CategoricalActor, DiscreteEnsembleCritic),
        (DeterministicActor, EnsembleCritic),
    ],
)
def test_every_head_of_ours_is_known_in_a_users_module(actor, critic):
    module = nn.ModuleDict(
        {
            "memory": make_encoder(),
            "one": actor(4, 2, 3),
            "two": critic(4, 2, 3, n_critics=2),
        }
    )
    rates = {key: RATES[key] for key in ("lr_context_encoder", "lr_actor", "lr_critic")}
    groups = parameter_groups(module, **rates, actor="memory")
    assert_a_partition(groups, module)
    groups = by_name(groups)
    assert ids(module["one"].parameters()) < ids(groups["actor"]["params"])
    assert ids(module["two"].parameters()) == ids(groups["critic"]["params"])


def test_a_loss_within_a_users_module():
    holder = nn.ModuleDict({"loss": make_resel_loss()})
    groups = parameter_groups(holder, **RATES)
    assert_a_partition(groups, holder)
    assert len(groups) == 5


def test_frozen_parameters_are_left_out():
    agent = Agent()
    agent.head.requires_grad_(False)
    agent.memory.pre_encoders[0].weight.requires_grad_(False)
    groups = parameter_groups(agent, lr_context_encoder=1e-5, lr_actor=1e-3)
    assert_a_partition(groups, agent)


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64, Fraction])
def test_any_real_number_is_a_learning_rate_and_is_stored_as_a_float(number):
    rates = {name: number(1) for name in RATES}
    groups = parameter_groups(make_resel_loss(), **rates)
    assert [type(group["lr"]) for group in groups] == 5 * [float]
    assert {group["lr"] for group in groups} == {1.0}


def test_a_fixed_temperature_needs_no_learning_rate():
    loss = make_resel_loss(fixed_alpha=True)
    rates = {**RATES, "lr_alpha": None}
    assert "alpha" not in by_name(parameter_groups(loss, **rates))
