"""What holds for every sequence core, and the registry."""

import pytest
import torch
from tensordict import TensorDict

from resel_torchrl.modules.cores import CORES, SequenceCore, make_core
from resel_torchrl.ops import has_fused_lstm

every_core = pytest.mark.parametrize("name", CORES)
CONTROLS = ["memoryless", "one_step"]
RECURRENT = [name for name in CORES if name not in CONTROLS]
# One head fits any width; 2,048 steps and what a random state claims fit the context.
OPTIONS = {"transformer": {"n_layers": 1, "n_heads": 1, "max_length": 2060}}
every_recurrent_core = pytest.mark.parametrize("name", RECURRENT)


def _core(name, size, dtype=torch.float64, **kwargs):
    torch.manual_seed(0)
    return make_core(name, size, **OPTIONS.get(name, {}), **kwargs).to(dtype)


def _batch(core, R, L, dtype=torch.float64, share=0.1):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    is_init = torch.rand(R, L, generator=generator) < share
    return draw(R, L, core.input_size), is_init, draw(R, core.state_size)


def _step_by_step(core, x, is_init, state):
    outputs = []
    for t in range(x.shape[1]):
        y, state = core.step(x[:, t], is_init[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


@every_core
@pytest.mark.parametrize(
    ("R", "L", "size"), [(1, 1, 1), (3, 2, 5), (2, 63, 250), (1, 2048, 12)]
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)]
)
def test_step_equals_forward(name, R, L, size, dtype, tolerance):
    core = _core(name, size, dtype)
    x, is_init, state = _batch(core, R, L, dtype, share=min(0.1, 8 / L))
    with torch.no_grad():
        y, last = core(x, is_init, state)
        wanted, wanted_last = _step_by_step(core, x, is_init, state)
    assert y.shape == x.shape
    torch.testing.assert_close(y, wanted, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(last, wanted_last, rtol=tolerance, atol=tolerance)


@every_core
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_stays_in_its_episode_but_for_the_fused_lstm(name, dtype):
    """The exception is the one that docs/deviations.md names."""
    core = _core(name, 5, dtype)
    x, is_init, state = _batch(core, 2, 9, dtype, share=0.0)
    is_init[:, 4] = True
    spoilt = x.clone()
    spoilt[0, 2] = torch.nan
    with torch.no_grad():
        clean, got = core(x, is_init, state)[0], core(spoilt, is_init, state)[0]
    assert got[0, 2].isnan().all()
    assert torch.equal(got[1], clean[1])
    shut_by_gates = name == "lstm" and has_fused_lstm(x)
    assert torch.equal(got[0, 4:], clean[0, 4:]) != shut_by_gates


@pytest.mark.parametrize("name", sorted({*RECURRENT} - {"transformer"}))
def test_step_equals_forward_at_the_papers_width_over_2048_steps(name):
    """The Transformer's own test has fewer steps: each of them copies its cache."""
    core = _core(name, 256, torch.float32)
    x, is_init, state = _batch(core, 1, 2048, torch.float32, share=0.0)
    with torch.no_grad():
        got = core(x, is_init, state)
        wanted = _step_by_step(core, x, is_init, state)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@every_core
@pytest.mark.parametrize("L", [1, 63])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)]
)
def test_gradients_of_step_equal_those_of_forward(name, L, dtype, tolerance):
    core = _core(name, 5, dtype)
    x, is_init, state = _batch(core, 3, L, dtype)
    tensors = [x.requires_grad_(), *core.parameters()]
    if core.state_size:
        tensors.append(state.requires_grad_())

    def gradients(run):
        y, last = run(x, is_init, state)
        mixture = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        loss = (y * mixture).sum() + last.square().sum()
        return torch.autograd.grad(loss, tensors)

    wanted = gradients(lambda *batch: _step_by_step(core, *batch))
    assert all(gradient.any() for gradient in wanted)
    torch.testing.assert_close(gradients(core), wanted, rtol=tolerance, atol=tolerance)


@every_recurrent_core
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neither_state_nor_earlier_episodes_reach_past_a_start_flag(name, dtype):
    core = _core(name, 5, dtype)
    x, is_init, state = _batch(core, 2, 31, dtype, share=0)
    noisy = x.clone()
    noisy[:, :10] += 1
    noise = torch.ones_like(state)
    if core.max_length is not None:
        noise[:, -1] = 0  # the number of keys, which changes the order of sums

    def tail(x, state):
        y, last = core(x, is_init, state)
        return torch.cat([y[:, 10:].flatten(), last.flatten()])

    # Control: without the flag the noise does reach the tail.
    assert not torch.equal(tail(noisy, state + noise), tail(x, state))
    is_init[:, 10] = True
    assert torch.equal(tail(noisy, state + noise), tail(x, state)), (
        "hidden state leaked across a start flag"
    )


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_have_no_memory(name):
    core = _core(name, 5)
    x, is_init, _ = _batch(core, 2, 31, share=0)
    noisy = x.clone()
    noisy[:, :10] += 1
    assert torch.equal(core(noisy, is_init)[0][:, 10:], core(x, is_init)[0][:, 10:])
    assert core.state_size == 0


def test_only_memoryless_drops_the_previous_inputs():
    assert [name for name, core in CORES.items() if not core.uses_previous] == [
        "memoryless"
    ]


@every_core
def test_no_state_means_zeros(name):
    core = _core(name, 5)
    x, is_init, state = _batch(core, 2, 7, share=0)
    torch.testing.assert_close(
        core(x, is_init), core(x, is_init, torch.zeros_like(state)), rtol=0, atol=0
    )


@every_core
def test_one_row_is_not_touched_by_another(name):
    core = _core(name, 5)
    x, is_init, state = _batch(core, 3, 31)
    y, last = core(x, is_init, state)
    for row in range(3):
        alone = core(x[row, None], is_init[row, None], state[row, None])
        torch.testing.assert_close(alone, (y[row, None], last[row, None]))


@every_core
def test_parameters_are_read_when_called(name):
    """Losses of TorchRL swap parameters in with to_module, targets' for one."""
    core = _core(name, 5)
    x, is_init, state = _batch(core, 2, 7)
    before = core(x, is_init, state)[0]
    other = _core(name, 5)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5).add_(0.1)
    wanted = other(x, is_init, state)[0]
    swapped = TensorDict.from_module(core).data.clone()
    swapped.update_(TensorDict.from_module(other).data)
    swapped.requires_grad_()
    with swapped.to_module(core):
        forward, step = (
            core(x, is_init, state)[0],
            _step_by_step(core, x, is_init, state)[0],
        )
    assert torch.equal(forward, wanted)
    torch.testing.assert_close(step, wanted)
    assert torch.equal(core(x, is_init, state)[0], before)
    gradients = torch.autograd.grad(forward.sum(), list(swapped.values(True, True)))
    assert len(gradients) == len(list(core.parameters()))


@pytest.mark.parametrize(
    ("name", "layer"), [("gru", torch.nn.GRU), ("lstm", torch.nn.LSTM)]
)
def test_state_dict_of_torch_loads_and_means_the_same(name, layer):
    module = layer(7, 7, batch_first=True).double()
    core = _core(name, 7)
    core.load_state_dict(module.state_dict())
    x, is_init, _ = _batch(core, 2, 63, share=0)
    torch.testing.assert_close(core(x, is_init)[0], module(x)[0])


@pytest.mark.parametrize("name", ["gru", "lstm", "memoryless", "one_step"])
def test_starts_xavier_uniform_with_zero_bias(name):
    core = make_core(name, 64)
    for parameter in core.parameters():
        if parameter.dim() == 1:
            assert not parameter.any()
        else:
            bound = (6 / sum(parameter.shape)) ** 0.5
            largest = parameter.abs().max().item()
            assert 0.98 * bound < largest <= bound * (1 + 1e-6)


@every_core
def test_widths(name):
    core = _core(name, 6)
    assert isinstance(core, SequenceCore)
    assert core.input_size == core.output_size == 6


class TestErrors:
    def test_unknown_core_lists_all_and_the_nearest(self):
        with pytest.raises(ValueError, match="Did you mean 'mamba'") as error:
            make_core("mamab", 4)
        assert all(repr(name) in str(error.value) for name in CORES)

    def test_unknown_core_far_from_all(self):
        with pytest.raises(ValueError, match=r"'attention': expected one of") as e:
            make_core("attention", 4)
        assert "Did you mean" not in str(e.value)

    def test_unknown_argument_lists_all_and_the_nearest(self):
        with pytest.raises(ValueError, match=r"'d_stat' for core 'mamba'.*'d_state'\?"):
            make_core("mamba", 4, d_stat=16)

    @pytest.mark.parametrize("size", [0, -1, 2.5, True, None])
    @every_core
    def test_size(self, name, size):
        with pytest.raises(ValueError, match="integer >= 1"):
            make_core(name, size)

    @pytest.mark.parametrize(
        "argument", ["expand", "d_state", "d_conv", "dt_rank", "feedforward_size"]
    )
    def test_mamba_sizes(self, argument):
        with pytest.raises(ValueError, match="integer >= 1"):
            make_core("mamba", 4, **{argument: 0})

    def test_mamba_backend(self):
        with pytest.raises(ValueError, match="Unknown selective_scan backend 'tritn'"):
            make_core("mamba", 4, backend="tritn")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x": torch.zeros(2, 4)}, r"\[R, L >= 1, 4\], got \[2, 4\].*step\(\)"),
            ({"x": torch.zeros(2, 3, 5)}, r"got \[2, 3, 5\]"),
            ({"x": torch.zeros(2, 0, 4)}, r"got \[2, 0, 4\]"),
            ({"is_init": torch.zeros(2, 3, 1).bool()}, "Squeeze"),
            ({"is_init": torch.zeros(2, 3)}, r"float32 \[2, 3\].*\.bool\(\)"),
            ({"state": torch.zeros(1, 99)}, r"expected a state.*got \[1, 99\]"),
        ],
    )
    @every_core
    def test_forward(self, name, change, message):
        core = _core(name, 4, torch.float32)
        batch = {
            "x": torch.zeros(2, 3, 4),
            "is_init": torch.zeros(2, 3, dtype=torch.bool),
            "state": torch.zeros(2, core.state_size),
        }
        core(**batch)
        with pytest.raises(ValueError, match=message):
            core(**(batch | change))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x": torch.zeros(2, 3, 4)}, r"\[B, 4\], got \[2, 3, 4\].*forward\(\)"),
            ({"is_init": torch.zeros(2, 1).bool()}, "Squeeze"),
            ({"state": torch.zeros(1, 99)}, r"expected a state.*got \[1, 99\]"),
        ],
    )
    @every_core
    def test_step(self, name, change, message):
        core = _core(name, 4, torch.float32)
        batch = {
            "x": torch.zeros(2, 4),
            "is_init": torch.zeros(2, dtype=torch.bool),
            "state": torch.zeros(2, core.state_size),
        }
        core.step(**batch)
        with pytest.raises(ValueError, match=message):
            core.step(**(batch | change))
