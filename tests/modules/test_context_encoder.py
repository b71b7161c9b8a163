import copy
import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictParams
from torch import nn
from torchrl.modules import set_recurrent_mode

from resel_torchrl.modules import CORES, ContextEncoder, context_inputs

SIZES = {"embedding_size": 5, "hidden_size": 8, "context_size": 3}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def make_encoder(core="gru", dtype=torch.float32, **kwargs):
    torch.manual_seed(0)
    inputs = context_inputs(4, 2, reward=True)
    return ContextEncoder(inputs, core, **{**SIZES, **kwargs}).to(dtype)


def make_data(rows=3, length=17, dtype=torch.float32, resets=True):
    """Return random inputs [rows, length]; episodes start at scattered places."""
    generator = torch.Generator().manual_seed(1)
    data = TensorDict(
        {
            key: torch.randn(rows, length, size, generator=generator, dtype=dtype)
            for key, size in context_inputs(4, 2, reward=True).items()
        },
        batch_size=[rows, length],
    )
    is_init = torch.rand(rows, length, 1, generator=generator) < 0.2
    is_init[:, 0] = True
    if not resets:
        is_init[:, 1:] = False
    return data.set("is_init", is_init)


def run_steps(encoder, data, state=None):
    """Run sequential mode over the columns of ``data``; return contexts and memory."""
    if state is None:
        # Noise, so that memory of before the episode cannot hide.
        state = torch.randn(data.shape[0], encoder.state_size).to(data["observation"])
    contexts = []
    for t in range(data.shape[1]):
        step = data[:, t].clone().set(encoder.state_key, state)
        contexts.append(encoder(step)[encoder.out_key])
        state = step.get(("next", encoder.state_key), state)
    return torch.stack(contexts, 1), state


def run_recurrent(encoder, data):
    with set_recurrent_mode(True):
        return encoder(data.clone())[encoder.out_key]


def gradients(encoder, context):
    weights = torch.linspace(-1, 1, context.numel(), dtype=context.dtype)
    loss = (context * weights.reshape(context.shape)).sum()
    return torch.autograd.grad(loss, list(encoder.parameters()))


@pytest.mark.parametrize("core", sorted(CORES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sequential_mode_equals_recurrent_mode_across_resets(core, dtype):
    encoder, data = make_encoder(core, dtype), make_data(dtype=dtype)
    recurrent = run_recurrent(encoder, data)
    sequential, _ = run_steps(encoder, data)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(sequential, recurrent, atol=tolerance, rtol=0)
    for a, b in zip(
        gradients(encoder, sequential), gradients(encoder, recurrent), strict=True
    ):
        torch.testing.assert_close(a, b, atol=30 * tolerance, rtol=30 * tolerance)


@pytest.mark.parametrize("core", sorted(CORES))
def test_start_flags_matter_exactly_to_cores_with_memory(core):
    encoder = make_encoder(core)
    with_resets = run_recurrent(encoder, make_data())
    without = run_recurrent(encoder, make_data(resets=False))
    assert torch.equal(with_resets, without) == (encoder.state_size == 0)


@pytest.mark.parametrize("mode", ["sequential", "recurrent"])
def test_nothing_passes_a_start_flag(mode):
    encoder, data = make_encoder(), make_data(rows=1, length=9, resets=False)
    data["is_init"][0, 4] = True
    changed = data.clone()
    changed["observation"][0, :4] += 10.0
    run = run_recurrent if mode == "recurrent" else lambda *a: run_steps(*a)[0]
    before, after = run(encoder, data), run(encoder, changed)
    assert torch.equal(before[0, 4:], after[0, 4:])
    data["is_init"][0, 4] = changed["is_init"][0, 4] = False
    before, after = run(encoder, data), run(encoder, changed)
    assert not torch.equal(before[0, 4:], after[0, 4:])


def test_recurrent_mode_writes_the_context_and_no_memory():
    encoder, data = make_encoder(), make_data()
    with set_recurrent_mode(True):
        out = encoder(data.clone())
    added = set(out.keys(True, True)) - set(data.keys(True, True))
    assert added == {"context_actor"}
    assert out["context_actor"].shape == (3, 17, 3)


def test_recurrent_mode_starts_from_the_first_column_of_the_memory():
    encoder, data = make_encoder(), make_data()
    _, memory = run_steps(encoder, data[:, :6])
    rest = data[:, 6:].clone()
    rest["is_init"][:, 0] = False
    whole = data.clone()
    whole["is_init"][:, 6] = False
    expected, _ = run_steps(encoder, whole)
    from_zeros = run_recurrent(encoder, rest)
    stored = torch.full((3, 11, encoder.state_size), torch.nan)
    stored[:, 0] = memory
    rest[encoder.state_key] = stored
    resumed = run_recurrent(encoder, rest)
    torch.testing.assert_close(resumed, expected[:, 6:], atol=1e-5, rtol=0)
    assert not torch.allclose(from_zeros, expected[:, 6:], atol=1e-3)


def test_a_flat_batch_is_one_row_and_more_dimensions_are_folded():
    encoder, data = make_encoder(), make_data(rows=6)
    rows = run_recurrent(encoder, data)
    assert torch.equal(
        run_recurrent(encoder, data[2]), run_recurrent(encoder, data[2:3])[0]
    )
    folded = run_recurrent(encoder, data.reshape(2, 3, 17))
    assert torch.equal(folded, rows.reshape(2, 3, 17, 3))


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
def test_sequential_mode_takes_any_batch_shape(batch):
    encoder = make_encoder()
    data = make_data(1, 1)[0, 0].expand(*batch).clone()
    data[encoder.state_key] = torch.zeros(*batch, encoder.state_size)
    encoder(data)
    assert data["context_actor"].shape == (*batch, 3)
    assert data["next", encoder.state_key].shape == (*batch, encoder.state_size)


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


def test_all_faults_of_the_arguments_are_listed_at_once():
    with pytest.raises(ValueError) as error:
        ContextEncoder(
            {"observation": 0, "pixels": (3, 4, 4)},
            "grru",
            hidden_size=0,
            pre_encoders={"image": nn.Identity()},
        )
    for part in (
        "'observation'",
        "'pixels'",
        "'image'",
        "'grru'",
        "'gru'",
        "hidden_size",
    ):
        assert part in str(error.value)


def test_a_built_core_must_fit():
    core = CORES["gru"](8)
    ContextEncoder({"observation": 3}, core, hidden_size=8)
    with pytest.raises(ValueError, match=r"Pass hidden_size=8"):
        ContextEncoder({"observation": 3}, core)
    with pytest.raises(ValueError, match=r"core_kwargs"):
        ContextEncoder({"observation": 3}, core, hidden_size=8, core_kwargs={"a": 1})
    with pytest.raises(ValueError, match=r"SequenceCore, got Linear"):
        ContextEncoder({"observation": 3}, nn.Linear(8, 8), hidden_size=8)
    with pytest.raises(ValueError, match=r"sees the present only"):
        ContextEncoder({"prev_action": 3}, "memoryless")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: d.exclude("prev_action"), KeyError, "make_tensordict_primer"),
        (lambda d: d.exclude("context_actor_state"), KeyError, "context_actor_state"),
        (lambda d: d.exclude("is_init"), KeyError, "InitTracker"),
        (
            lambda d: d.set("observation", torch.zeros(3, 5)),
            ValueError,
            r"\[3, 4\].*got \[3, 5\]",
        ),
        (
            lambda d: d.set("is_init", torch.zeros(3, 1)),
            ValueError,
            r"torch.bool.*torch.float32",
        ),
        (
            lambda d: d.set("observation", torch.zeros(3, 4).double()),
            ValueError,
            "DoubleToFloat",
        ),
    ],
)
def test_faulty_data_is_named(change, error, message):
    encoder = make_encoder()
    data = make_data()[:, 0].clone()
    data[encoder.state_key] = torch.zeros(3, encoder.state_size)
    encoder(data.clone())
    with pytest.raises(error, match=message):
        encoder(change(data))


def test_recurrent_mode_needs_a_time_dimension():
    with pytest.raises(ValueError, match=r"sequential mode"):
        run_recurrent(make_encoder(), make_data()[0, 0])


def test_context_inputs():
    assert context_inputs(4, 2) == {
        "observation": 4,
        "prev_observation": 4,
        "prev_action": 2,
    }
    assert context_inputs(4, 2, reward=True)["prev_reward"] == 1
