"""Heads for discrete actions: categorical actor and critics with one output each."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import Bounded, Composite, OneHot
from torchrl.envs import ExplorationType, set_exploration_type

from resel_torchrl.envs import make_env
from resel_torchrl.modules import (
    CategoricalActor,
    ContextEncoder,
    DiscreteEnsembleCritic,
    context_inputs,
    make_agent,
    make_policy,
)


def make_actor(actions=3, **options):
    torch.manual_seed(0)
    return CategoricalActor(4, actions, 5, hidden_sizes=(7,), **options)


def make_data(*batch, scale=1.0):
    torch.manual_seed(1)
    return TensorDict(
        observation=scale * torch.randn(*batch, 4),
        context_actor=scale * torch.randn(*batch, 5),
        batch_size=batch,
    )


def test_probabilities_are_softmax_with_a_floor():
    actor, data = make_actor(), make_data(6, scale=100.0)
    probs = actor.head(data["observation"], data["context_actor"])
    logits = actor.module[0].module.outputs(data["observation"], data["context_actor"])
    for row, logit in zip(probs, logits, strict=True):
        weights = logit.double().exp() / logit.double().exp().sum() + 0.01
        torch.testing.assert_close(row, (weights / weights.sum()).float())
    # Without the floor an action would have died out.
    assert logits.softmax(-1).min() < 1e-6
    assert probs.min() > 0.0097


@pytest.mark.parametrize("floor", [1e-6, 0.05, 1])
def test_the_floor_is_what_was_given(floor):
    actor, data = make_actor(probability_floor=floor), make_data(6, scale=100.0)
    logits = actor.network.outputs(data["observation"], data["context_actor"])
    expected = (logits.double().softmax(-1) + floor) / (1 + 3 * floor)
    torch.testing.assert_close(actor.get_dist(data).probs.double(), expected)


@pytest.mark.parametrize("floor", [1e-6, 0.01])
def test_log_probabilities_have_a_gradient_where_one_action_dominates(floor):
    actor, data = make_actor(probability_floor=floor), make_data(6, scale=1000.0)
    actor.get_dist(data).logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in actor.parameters())
    # None of them is cut off: each log-probability is that of its probability.
    probs = actor.get_dist(data).probs
    torch.testing.assert_close(actor.get_dist(data).logits, probs.log())


@pytest.mark.parametrize("batch", [(), (6,), (2, 3)])
def test_actions_are_one_hot_in_any_batch(batch):
    actor = make_actor()
    for kind in (ExplorationType.DETERMINISTIC, ExplorationType.RANDOM):
        with set_exploration_type(kind):
            action = actor(make_data(*batch))["action"]
        assert action.shape == (*batch, 3) and action.dtype == torch.int64
        assert (action.sum(-1) == 1).all() and (action.amax(-1) == 1).all()


def test_mode_is_one_action_even_where_two_are_equally_probable():
    actor, data = make_actor(), make_data(6).zero_()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        action = actor(data)["action"]
    assert (action.sum(-1) == 1).all()
    plain = actor.act(data["observation"], data["context_actor"], deterministic=True)
    assert torch.equal(action, plain.long())


def test_samples_follow_the_probabilities():
    actor, data = make_actor(), make_data()
    data = data.expand(20_000).clone()
    with set_exploration_type(ExplorationType.RANDOM):
        shares = actor(data)["action"].double().mean(0)
    torch.testing.assert_close(shares.float(), data["probs"][0], atol=0.02, rtol=0)
    plain = actor.act(data["observation"], data["context_actor"]).mean(0)
    torch.testing.assert_close(plain, data["probs"][0], atol=0.02, rtol=0)


@pytest.mark.parametrize("spec", [Bounded(-1, 1, (3,)), OneHot(4), Composite(a=None)])
def test_a_spec_that_does_not_fit_is_refused(spec):
    key = {"action_key": "a"} if isinstance(spec, Composite) else {}
    with pytest.raises(ValueError, match="expected a OneHot spec of 3 actions, got"):
        make_actor(spec=spec, **key)


def test_a_collector_given_only_the_policy_acts_and_stores_one_hot_actions():
    torch.manual_seed(0)
    encoder = ContextEncoder(context_inputs(2, 2), "gru", hidden_size=8, context_size=4)
    policy = make_policy(encoder, CategoricalActor(2, 2, 4, hidden_sizes=(8,)))
    collector = Collector(
        make_env("CartPole-P-v0", seed=0),
        policy,
        frames_per_batch=60,
        total_frames=60,
        auto_register_policy_transforms=True,
    )
    (data,) = collector
    collector.shutdown()
    assert (data["action"].sum(-1) == 1).all()
    going_on = ~data["is_init"][1:, 0]
    assert torch.equal(
        data["prev_action"][1:][going_on], data["action"][:-1][going_on].float()
    )
    assert not data["prev_action"][data["is_init"][:, 0]].any()


def make_critic(n_critics=5, hidden_sizes=(7, 6)):
    torch.manual_seed(0)
    critic = DiscreteEnsembleCritic(
        4,
        3,
        context_size=5,
        n_critics=n_critics,
        embedding_size=6,
        hidden_sizes=hidden_sizes,
    ).double()
    for bias in critic.biases:
        nn.init.normal_(bias)
    return critic


@pytest.mark.parametrize("hidden_sizes", [(), (7,), (7, 6, 5)])
def test_each_member_is_the_stand_alone_network(hidden_sizes):
    critic, data = make_critic(hidden_sizes=hidden_sizes), make_data(2, 9).double()
    observation, context = data["observation"], data["context_actor"]
    values = critic.values(observation, context)
    assert values.shape == (2, 9, 3, 5)
    for j in range(5):
        x = torch.cat([critic.observation_map(observation), context], -1)
        for i, (weight, bias) in enumerate(
            zip(critic.weights, critic.biases, strict=True)
        ):
            x = nn.functional.elu(x) if i else x
            x = x @ weight[j] + bias[j]
        torch.testing.assert_close(values[..., j], x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("batch", [(), (1,), (2, 0), (2, 3, 4)])
def test_module_and_plain_tensors_agree_in_batches_of_any_rank(batch):
    critic, data = make_critic(), make_data(*batch).double()
    data.rename_key_("context_actor", "context_critic")
    values = critic.values(data["observation"], data["context_critic"])
    assert values.shape == (*batch, 3, 5)
    assert critic(data) is data and torch.equal(data["action_value"], values)


def test_faults_are_named():
    with pytest.raises(ValueError, match=r"n_critics: expected at least 1, got 0"):
        make_critic(0)
    data = make_data(6).double()
    with pytest.raises(ValueError, match=r"context of shape \[\*B, 5\], got \[6, 4\]"):
        make_critic().values(data["observation"], data["observation"])
    with pytest.raises(ValueError, match="algorithm: expected one of resel, "):
        make_agent(2, 2, algorithm="sac")
    with pytest.raises(ValueError, match="exploration_noise: expected None"):
        make_agent(2, 2, algorithm="discrete_resel", exploration_noise=0.1)
    with pytest.raises(ValueError, match="probability_floor: expected None"):
        make_agent(2, 2, algorithm="td3_resel", probability_floor=0.1)
    for floor in (0, 1e-7, 1.1, float("nan")):
        with pytest.raises(ValueError, match="probability_floor: expected a number"):
            make_actor(probability_floor=floor)
