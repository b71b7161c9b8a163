"""What parameter_groups refuses, and what its errors say."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchrl.objectives import SACLoss

from resel_torchrl.optim import parameter_groups
from tests.optim.parts import (
    RATES,
    ActorCritic,
    make_encoder,
    make_policy_network,
    make_resel_loss,
    value_network,
)


def test_tensors_that_a_loss_hides_are_named():
    encoder = make_encoder("critic")
    values = [value_network(encoder), value_network(encoder)]
    loss = SACLoss(make_policy_network(make_encoder()), values)
    assert not any(
        "trunk" in n for n, _ in loss.qvalue_network_params.named_parameters()
    )
    with pytest.raises(ValueError, match=r"qvalue_network_params\S*trunk\.in_proj"):
        parameter_groups(loss, **RATES)


def test_a_name_claims_whole_parts_only():
    agent = ActorCritic()
    with pytest.raises(ValueError, match=r"actor: .*got 'pol'"):
        parameter_groups(agent, **RATES, actor="pol", critic=("memory", "scale"))


def test_unknown_parameters_are_named():
    with pytest.raises(ValueError) as error:
        parameter_groups(ActorCritic(), **RATES, critic="memory")
    message = str(error.value)
    assert "scale" in message
    assert "policy.module.0.pre_encoders.0.weight" in message
    assert "critic.weights" not in message  # the library's own class tells its side
    loss = make_resel_loss()
    loss.extra = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match=r"neither actor nor critic: extra\."):
        parameter_groups(loss, **RATES)


@pytest.mark.parametrize(
    "rate", [0, 0.0, -1e-5, math.nan, math.inf, "1e-5", None, True, np.True_, 1j]
)
def test_a_learning_rate_must_be_a_number_above_zero(rate):
    with pytest.raises(ValueError, match=r"lr_context_encoder: .* above 0, got"):
        parameter_groups(make_resel_loss(), **{**RATES, "lr_context_encoder": rate})


def test_all_faults_are_listed_at_once():
    loss = make_resel_loss()
    loss.extra = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError) as error:
        parameter_groups(
            loss,
            lr_context_encoder=0.0,
            lr_actor=-1.0,
            actor="acotr",
            critic="log_alpha",
        )
    message = str(error.value)
    for part in (
        "lr_context_encoder: expected a number above 0",
        "lr_actor: expected a number above 0",
        "lr_critic: expected a learning rate",
        "actor: expected a part of the module",
        "extra",
    ):
        assert part in message


def test_a_parameter_claimed_by_both_sides_is_refused():
    agent = ActorCritic()
    with pytest.raises(ValueError, match=r"scale: expected under actor or critic, got"):
        parameter_groups(
            agent, **RATES, actor=("policy", "scale"), critic=("memory", "scale")
        )


def test_a_module_without_an_encoder_is_refused():
    with pytest.raises(ValueError, match=r"at least one ContextEncoder in Linear"):
        parameter_groups(nn.Linear(2, 2), lr_context_encoder=1e-5, lr_actor=1e-3)
