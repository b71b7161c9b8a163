"""What a context encoder is made of, and its plain-tensor path."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictParams
from torch import nn

from resel_torchrl.modules import CORES, ContextEncoder, context_inputs
from tests.modules.encoders import (
    SIZES,
    make_data,
    make_encoder,
    run_recurrent,
    run_steps,
)


@pytest.mark.parametrize("core", sorted(CORES))
def test_plain_tensor_path_is_bit_for_bit_the_module(core):
    encoder, data = make_encoder(core), make_data()
    inputs = [data[key] for key in encoder.input_keys]
    is_init = data["is_init"].squeeze(-1)
    context, state = encoder.encode(inputs, is_init)
    assert torch.equal(context, run_recurrent(encoder, data))
    assert state.shape == (3, encoder.state_size)
    step = data[:, 0].clone().set(encoder.state_key, state)
    encoder(step)
    context, state = encoder.encode_step(
        [x[:, 0] for x in inputs], is_init[:, 0], state
    )
    assert torch.equal(context, step["context_actor"])
    if encoder.state_size:
        assert torch.equal(state, step["next", encoder.state_key])


@pytest.mark.parametrize("core", sorted(CORES))
def test_parameters_swapped_in_are_used_and_get_the_gradient(core):
    encoder, data = make_encoder(core), make_data()
    original = run_recurrent(encoder, data)
    params = TensorDictParams(TensorDict.from_module(encoder).data.clone() * 0.5)
    halved = copy.deepcopy(encoder)
    for p in halved.parameters():
        p.data.mul_(0.5)
    inputs = [data[key] for key in encoder.input_keys]
    with params.to_module(encoder):
        swapped = run_recurrent(encoder, data)
        plain, _ = encoder.encode(inputs, data["is_init"].squeeze(-1))
    assert torch.equal(swapped, run_recurrent(halved, data))
    assert torch.equal(plain, swapped)
    assert torch.equal(run_recurrent(encoder, data), original)
    swapped.square().sum().backward()
    assert all(p.grad is not None for p in params.parameters())
    assert all(p.grad is None for p in encoder.parameters())


@pytest.mark.parametrize("core", sorted(CORES))
def test_nothing_is_read_back_to_the_host(core):
    # Meta tensors have no values: reading one raises.
    encoder, data = make_encoder(core).to("meta"), make_data().to("meta")
    run_recurrent(encoder, data).sum().backward()
    run_steps(encoder, data)
    with pytest.raises(RuntimeError):
        bool(data["is_init"].any())


def test_memoryless_core_drops_previous_inputs_and_one_step_keeps_them():
    assert make_encoder("memoryless").input_keys == ["observation"]
    assert len(make_encoder("one_step").input_keys) == 4
    for core in ("memoryless", "one_step"):
        encoder = make_encoder(core)
        assert encoder.state_size == 0
        step = make_data()[:, 0].clone()
        assert encoder(step)["context_actor"].shape == (3, 3)
        assert encoder.out_keys == ["context_actor"]
        assert not any("state" in str(key) for key in step.keys(True))


def test_own_pre_encoder_and_nested_keys():
    torch.manual_seed(0)
    pixels = ("agent", "pixels")
    cnn = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ELU(), nn.Flatten(), nn.LazyLinear(5))
    cnn(torch.zeros(1, 3, 6, 6))
    encoder = ContextEncoder(
        {pixels: (3, 6, 6), ("agent", "prev_action"): 2},
        "gru",
        pre_encoders={pixels: cnn},
        out_key=("agent", "context"),
        is_init_key=("agent", "is_init"),
        **SIZES,
    )
    assert encoder.state_key == ("agent", "context_state")
    data = TensorDict(
        {
            pixels: torch.randn(2, 4, 3, 6, 6),
            ("agent", "prev_action"): torch.randn(2, 4, 2),
            ("agent", "is_init"): torch.zeros(2, 4, 1, dtype=torch.bool),
        },
        batch_size=[2, 4],
    )
    context = run_recurrent(encoder, data)
    sequential, _ = run_steps(encoder, data, torch.zeros(2, 8))
    torch.testing.assert_close(context, sequential, atol=1e-5, rtol=0)
    context.sum().backward()
    assert all(p.grad is not None for p in cnn.parameters())


def test_one_hot_integers_are_accepted():
    encoder, data = make_encoder(), make_data()
    data["prev_action"] = torch.zeros(3, 17, 2)
    expected = run_recurrent(encoder, data)
    data["prev_action"] = torch.zeros(3, 17, 2, dtype=torch.int64)
    assert torch.equal(run_recurrent(encoder, data), expected)


def test_initialisation_is_xavier_in_the_projections_and_default_before_them():
    encoder = ContextEncoder(context_inputs(4, 2), "gru")
    for layer in (encoder.trunk.in_projection, encoder.trunk.out_projection):
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    for layer in encoder.pre_encoders:
        bound = 1 / math.sqrt(layer.in_features)
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert layer.bias.any()


def test_default_sizes_are_the_papers():
    encoder = ContextEncoder(context_inputs(9, 6, reward=True), "gru")
    assert encoder.trunk.in_projection.weight.shape == (256, 4 * 128)
    assert encoder.trunk.out_projection.weight.shape == (128, 256)
    assert encoder.context_size == 128


def test_works_inside_a_users_module():
    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.memory = make_encoder()
            self.head = nn.Linear(3, 1)

    agent = Agent()
    names = {name.split(".")[1] for name, _ in agent.memory.named_parameters("memory")}
    assert names == {"pre_encoders", "trunk"}
    other = copy.deepcopy(agent)
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(agent.state_dict())
    data = make_data()
    expected = run_recurrent(agent.memory, data)
    assert torch.equal(run_recurrent(other.memory, data), expected)


def test_context_inputs():
    assert context_inputs(4, 2) == {
        "observation": 4,
        "prev_observation": 4,
        "prev_action": 2,
    }
    assert context_inputs(4, 2, reward=True)["prev_reward"] == 1
