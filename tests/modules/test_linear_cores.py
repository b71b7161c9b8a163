"""LRU and minGRU against slow references, and how they start."""

import math

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, linear

from resel_torchrl.modules import make_core


def feedforward(module, x):
    inner, _, outer = module.layers
    u = layer_norm(x, x.shape[-1:], module.norm.weight, module.norm.bias)
    u = gelu(linear(u, inner.weight, inner.bias))
    return x + linear(u, outer.weight, outer.bias)


def lru(core, x, is_init, state):
    """Equation by equation, one step at a time, complex numbers as such."""
    decay = torch.exp(torch.complex(-torch.exp(core.nu_log), torch.exp(core.theta_log)))
    B, C = (torch.complex(*pair) for pair in (core.B, core.C))
    h, outputs = torch.complex(*state.chunk(2, -1)), []
    for t in range(x.shape[1]):
        u = layer_norm(x[:, t], x.shape[-1:], core.norm.weight, core.norm.bias)
        h = torch.where(is_init[:, t, None], 0, h)
        h = decay * h + torch.exp(core.gamma_log) * (u.to(B) @ B.T)
        y = x[:, t] + (h @ C.T).real + core.D * u
        outputs.append(feedforward(core.feedforward, y))
    return torch.stack(outputs, 1), torch.cat([h.real, h.imag], -1)


def min_gru(core, x, is_init, state):
    h, outputs = state, []
    W_z, W_h = core.in_proj.weight.chunk(2)
    b_z, b_h = core.in_proj.bias.chunk(2)
    for t in range(x.shape[1]):
        u = layer_norm(x[:, t], x.shape[-1:], core.norm.weight, core.norm.bias)
        z, v = torch.sigmoid(u @ W_z.T + b_z), u @ W_h.T + b_h
        g = torch.where(v >= 0, v + 0.5, torch.sigmoid(v))
        h = (1 - z) * torch.where(is_init[:, t, None], 0, h) + z * g
        y = x[:, t] + h @ core.out_proj.weight.T + core.out_proj.bias
        outputs.append(feedforward(core.feedforward, y))
    return torch.stack(outputs, 1), h


CORES = [
    ("lru", lru, {"d_state": 7, "feedforward_size": 9}),
    ("min_gru", min_gru, {"expand": 2, "feedforward_size": 9}),
]


@pytest.mark.parametrize(("name", "reference", "options"), CORES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)]
)
@pytest.mark.parametrize("L", [1, 63])
def test_values_and_gradients_are_those_of_the_equations(
    name, reference, options, dtype, tolerance, L
):
    torch.manual_seed(0)
    core = make_core(name, 5, **options).to(dtype)
    x = torch.randn(3, L, 5, dtype=dtype, requires_grad=True)
    state = torch.randn(3, core.state_size, dtype=dtype, requires_grad=True)
    is_init = torch.rand(3, L) < 0.1
    results = []
    for run in (core, lambda *batch: reference(core, *batch)):
        y, last = run(x, is_init, state)
        mixture = torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)
        loss = (mixture * y).sum() + last.square().sum()
        gradients = torch.autograd.grad(loss, [x, state, *core.parameters()])
        results.append((y, last, *gradients))
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_lru_starts_on_its_ring():
    torch.manual_seed(0)
    core = make_core("lru", 2000, r_min=0.9, r_max=0.999, feedforward_size=1)
    decay = core.decay()
    squared = decay.abs().square()
    assert 0.9 <= decay.abs().min() < 0.905
    assert 0.998 < decay.abs().max() <= 0.999 + 1e-6
    assert squared.mean() == pytest.approx((0.9**2 + 0.999**2) / 2, abs=0.005)
    angle = decay.angle().remainder(2 * math.pi)
    assert angle.mean() == pytest.approx(math.pi, abs=0.15)
    gamma = core.gamma_log.exp()
    torch.testing.assert_close(gamma.square(), 1 - squared, rtol=1e-3, atol=1e-6)
    assert core.B.std() == pytest.approx(4000**-0.5, rel=0.02)
    assert core.C.std() == pytest.approx(2000**-0.5, rel=0.02)
    assert core.D.std() == pytest.approx(1, rel=0.1)


@torch.no_grad()
def test_lru_is_stable_whatever_it_learns():
    core = make_core("lru", 3).double()
    for value in (-30.0, 0.0, 30.0):
        core.nu_log.fill_(value)
        core.theta_log.fill_(value / 10)
        assert (core.decay().abs() <= 1).all()
    decay = make_core("lru", 3, max_phase=math.pi / 10).decay()
    assert (decay.angle() >= 0).all()
    assert (decay.angle() <= math.pi / 10 + 1e-6).all()


def test_min_gru_keeps_what_its_gate_bias_says():
    core = make_core("min_gru", 4, gate_bias=-3.0).double()
    with torch.no_grad():
        core.in_proj.weight.zero_()
        core.in_proj.bias[4:] = -1e9  # g is 0
    state = torch.ones(1, 4, dtype=torch.float64)
    x, is_init = torch.zeros(1, 20, 4, dtype=torch.float64), torch.zeros(1, 20).bool()
    _, last = core(x, is_init, state)
    kept = (1 / (1 + math.exp(-3))) ** 20
    torch.testing.assert_close(last, kept * state)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lru", {"d_state": 0}, "d_state to be an integer >= 1, got 0"),
        ("lru", {"feedforward_size": 0}, "feedforward_size to be an integer >= 1"),
        ("lru", {"r_min": 0.99, "r_max": 0.9}, "0 <= r_min < r_max < 1, got r_min=0.9"),
        ("lru", {"r_max": 1.0}, "got r_min=0.9 and r_max=1.0. The paper's ring is"),
        ("lru", {"r_min": -0.1}, "r_min=-0.1"),
        ("lru", {"max_phase": 0}, "0 < max_phase <= 2 π, got 0"),
        ("lru", {"max_phase": 7.0}, "got 7.0. A full turn is 6.2832"),
        ("min_gru", {"expand": 0}, "expand to be an integer >= 1, got 0"),
        ("min_gru", {"feedforward_size": -1}, "feedforward_size to be an integer"),
    ],
)
def test_mistakes_say_what_to_do(name, options, message):
    with pytest.raises(ValueError) as error:
        make_core(name, 4, **options)
    assert message in str(error.value)
