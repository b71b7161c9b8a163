import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from resel_torchrl.modules import EnsembleCritic


def make_critic(n_critics=5, hidden_sizes=(7, 6)):
    torch.manual_seed(0)
    return EnsembleCritic(
        4,
        2,
        context_size=3,
        n_critics=n_critics,
        embedding_size=5,
        hidden_sizes=hidden_sizes,
    )


def make_inputs(*batch):
    torch.manual_seed(1)
    return [torch.randn(*batch, size) for size in (4, 2, 3)]


def alone(critic, index, observation, action, context):
    """Evaluate one member as the stand-alone network that it is."""
    layers = []
    for weight, bias in zip(critic.weights, critic.biases, strict=True):
        layer = nn.Linear(*weight.shape[1:]).to(weight.dtype)
        layer.weight.data = weight[index].detach().t()
        layer.bias.data = bias[index].detach()
        layers += [layer, nn.ELU()]
    mlp = nn.Sequential(*layers[:-1])
    x = [critic.observation_map(observation), critic.action_map(action), context]
    return mlp(torch.cat(x, -1)).squeeze(-1), mlp


@pytest.mark.parametrize("hidden_sizes", [(), (7,), (7, 6, 5)])
def test_each_member_is_the_stand_alone_network(hidden_sizes):
    critic = make_critic(hidden_sizes=hidden_sizes).double()
    for bias in critic.biases:
        nn.init.normal_(bias)
    inputs = [x.double() for x in make_inputs(9)]
    values = critic.values(*inputs)
    weights = torch.randn(9, dtype=torch.float64)
    for j in range(critic.n_critics):
        expected, mlp = alone(critic, j, *inputs)
        torch.testing.assert_close(values[:, j], expected, atol=1e-12, rtol=0)
        grads = torch.autograd.grad(
            (values[:, j] * weights).sum(),
            [*critic.weights, *critic.biases],
            retain_graph=True,
        )
        references = torch.autograd.grad(
            (expected * weights).sum(), list(mlp.parameters())
        )
        n = len(critic.weights)
        for i in range(n):
            torch.testing.assert_close(grads[i][j].t(), references[2 * i])
            torch.testing.assert_close(grads[n + i][j], references[2 * i + 1])
            others = [k for k in range(critic.n_critics) if k != j]
            assert not grads[i][others].any()
            assert not grads[n + i][others].any()


@pytest.mark.parametrize("batch", [(), (1,), (6,), (2, 3), (2, 0), (2, 3, 4)])
def test_batches_of_any_rank(batch):
    critic = make_critic()
    inputs = make_inputs(*batch)
    values = critic.values(*inputs)
    assert values.shape == (*batch, 5)
    flat = critic.values(*[x.reshape(-1, x.shape[-1]) for x in inputs])
    torch.testing.assert_close(values.reshape(-1, 5), flat)


def test_module_and_plain_tensors_agree_bit_for_bit():
    critic, inputs = make_critic(), make_inputs(2, 3)
    data = TensorDict(dict(zip(critic.in_keys, inputs, strict=True)), batch_size=[2, 3])
    assert critic(data) is data
    assert torch.equal(data["state_action_value"], critic.values(*inputs))


def test_members_differ_and_each_is_xavier_on_its_own():
    torch.manual_seed(0)
    critic = EnsembleCritic(9, 6)
    assert [tuple(w.shape) for w in critic.weights] == [
        (8, 384, 256),
        (8, 256, 256),
        (8, 256, 1),
    ]
    for weight, bias in zip(critic.weights, critic.biases, strict=True):
        bound = math.sqrt(6 / (weight.shape[1] + weight.shape[2]))
        largest = weight.abs().amax((1, 2))
        assert ((0.97 * bound < largest) & (largest <= bound)).all()
        assert len(weight.flatten(1).unique(dim=0)) == 8
        assert not bias.any()
    # The shared input maps keep PyTorch's default.
    assert critic.observation_map.bias.any()
    assert critic.action_map.weight.abs().max() <= 1 / math.sqrt(6)


def test_input_maps_are_shared_and_learn_from_every_member():
    critic, inputs = make_critic(), make_inputs(6)
    for j in range(5):
        critic.zero_grad()
        critic.values(*inputs)[:, j].sum().backward()
        assert critic.observation_map.weight.grad.any()
        assert critic.action_map.weight.grad.any()


def test_parameters_swapped_in_are_used():
    critic, inputs = make_critic(), make_inputs(6)
    params = TensorDict.from_module(critic).data.clone().zero_()
    with params.to_module(critic):
        assert not critic.values(*inputs).any()
    assert critic.values(*inputs).any()


def test_reset_parameters_draws_anew():
    critic = make_critic()
    before = [p.clone() for p in critic.parameters()]
    critic.reset_parameters()
    changed = [
        not torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True)
    ]
    assert sum(changed) == len(before) - len(critic.biases)  # biases are zero again


def test_faults_are_named():
    with pytest.raises(ValueError, match=r"n_critics: expected at least 1, got 0"):
        make_critic(0)
    observation, action, context = make_inputs(6)
    with pytest.raises(ValueError, match=r"action of shape \[\*B, 2\], got \[6, 4\]"):
        make_critic().values(observation, observation, context)
    with pytest.raises(KeyError, match="context_critic"):
        make_critic()(TensorDict(observation=observation, action=action))
