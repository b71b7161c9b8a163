"""The Mamba mixer against an independent Mamba-1, and the paper's block around it."""

import math

import pytest
import torch

from resel_torchrl.modules.cores import MambaCore, MambaMixer
from tests.ops.cases import saved_bytes

SIZE, EXPAND, STATES, TAPS = 20, 2, 6, 4
INNER, RANK = EXPAND * SIZE, math.ceil(SIZE / 16)


def _published_state_dict(dtype=torch.float64):
    """Random tensors under the names and shapes that mamba_ssm's Mamba saves."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "A_log": (INNER, STATES),
        "D": (INNER,),
        "in_proj.weight": (2 * INNER, SIZE),
        "conv1d.weight": (INNER, 1, TAPS),
        "conv1d.bias": (INNER,),
        "x_proj.weight": (RANK + 2 * STATES, INNER),
        "dt_proj.weight": (INNER, RANK),
        "dt_proj.bias": (INNER,),
        "out_proj.weight": (SIZE, INNER),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=dtype) / shape[-1] ** 0.5
        for name, shape in shapes.items()
    }


def _mamba1(p, episode):
    """Mamba-1 over one whole episode [T, SIZE] from zero, channels first, in the open.

    Follows the published equations with none of the library's operations: torch's own
    convolution, decays and inputs of all steps at once, scalar recurrence over time.
    """
    both = p["in_proj.weight"] @ episode.T  # [2 INNER, T]
    u, z = both[:INNER], both[INNER:]
    u = torch.nn.functional.conv1d(
        u, p["conv1d.weight"], p["conv1d.bias"], padding=TAPS - 1, groups=INNER
    )[:, : episode.shape[0]]
    u = u * torch.sigmoid(u)
    projected = p["x_proj.weight"] @ u
    delta = p["dt_proj.weight"] @ projected[:RANK] + p["dt_proj.bias"][:, None]
    delta = torch.log1p(torch.exp(delta))
    B, C = projected[RANK : RANK + STATES], projected[RANK + STATES :]
    A_bar = torch.exp(torch.einsum("dt,dn->tdn", delta, -torch.exp(p["A_log"])))
    Bx = torch.einsum("dt,nt,dt->tdn", delta, B, u)
    h, outputs = torch.zeros(INNER, STATES).double(), []
    for t in range(episode.shape[0]):
        h = A_bar[t] * h + Bx[t]
        outputs.append(torch.einsum("dn,n->d", h, C[:, t]) + p["D"] * u[:, t])
    y = torch.stack(outputs, 1) * z * torch.sigmoid(z)
    return (p["out_proj.weight"] @ y).T


def _mixer():
    mixer = MambaMixer(SIZE, d_state=STATES, d_conv=TAPS, expand=EXPAND).double()
    mixer.load_state_dict(_published_state_dict(), strict=True)
    return mixer


@pytest.mark.parametrize("backend", ["naive", "cpu"])
def test_loads_mamba_ssm_and_computes_the_same_on_packed_episodes(backend):
    mixer, parameters = _mixer(), _published_state_dict()
    mixer.backend = backend
    lengths = [1, 2, 3, 40, 17]
    x = torch.randn(1, sum(lengths), SIZE, dtype=torch.float64)
    is_init = torch.zeros(1, sum(lengths), dtype=torch.bool)
    is_init[0, torch.tensor([0, *lengths[:-1]]).cumsum(0)] = True
    state = torch.randn(1, mixer.state_size, dtype=torch.float64)
    y, _ = mixer(x, is_init, state)
    wanted = [_mamba1(parameters, episode) for episode in x[0].split(lengths)]
    torch.testing.assert_close(y[0], torch.cat(wanted), rtol=1e-10, atol=1e-10)
    # Control: the same episodes without start flags are another sequence.
    assert not torch.allclose(mixer(x, is_init & False, state)[0], y)


def test_state_dict_has_the_published_names_and_shapes():
    saved = {name: tensor.shape for name, tensor in _mixer().state_dict().items()}
    published = {name: tensor.shape for name, tensor in _published_state_dict().items()}
    assert saved == published


def test_a_key_too_few_is_refused():
    parameters = _published_state_dict()
    del parameters["A_log"]
    with pytest.raises(RuntimeError, match="A_log"):
        _mixer().load_state_dict(parameters, strict=True)


def test_defaults_are_the_papers():
    core = MambaCore(256)
    mixer = core.mixer
    assert (mixer.d_inner, mixer.d_state, mixer.d_conv, mixer.dt_rank) == (
        *(512, 64, 8, 16),
    )
    assert core.state_size == 512 * (8 - 1 + 64)
    assert core.norm.eps == core.feedforward_norm.eps == 1e-8
    assert core.feedforward[0].out_features == 256
    for linear in (mixer.in_proj, mixer.x_proj, mixer.out_proj):
        assert linear.bias is None


def test_initialisation():
    mixer = MambaMixer(256)
    rates = torch.arange(1, 65).expand(512, 64)
    torch.testing.assert_close(mixer.A_log.exp(), rates.float())
    assert (mixer.D == 1).all()
    dt = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert (dt >= 1e-3 * (1 - 1e-3)).all()
    assert (dt <= 1e-1 * (1 + 1e-3)).all()
    # Log-uniform: half of them are below the geometric mean, 1e-2.
    assert 0.4 < (dt < 1e-2).float().mean() < 0.6
    largest = mixer.dt_proj.weight.abs().max().item()
    assert 0.98 * 16**-0.5 < largest <= 16**-0.5


def test_block_is_the_papers():
    core = MambaCore(SIZE, d_state=STATES, feedforward_size=33).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(2, 9, SIZE, dtype=torch.float64)
    is_init = torch.zeros(2, 9, dtype=torch.bool)
    got, _ = core(x, is_init)
    scaled = x / (x.square().mean(-1, keepdim=True) + 1e-8).sqrt() * core.norm.weight
    state = torch.zeros(2, core.state_size, dtype=torch.float64)
    x = x + core.mixer(scaled, is_init, state)[0]
    first, _, second = core.feedforward
    inner = x @ first.weight.T + first.bias
    inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
    x = x + inner @ second.weight.T + second.bias
    centred = x - x.mean(-1, keepdim=True)
    norm = core.feedforward_norm
    wanted = centred / (centred.square().mean(-1, keepdim=True) + 1e-8).sqrt()
    wanted = wanted * norm.weight + norm.bias
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_keeps_little_at_the_papers_sizes():
    """Two episodes of a thousand steps: the naive scan's states alone are 750 MiB."""
    core = MambaCore(256)
    x = torch.randn(2, 1010, 256, requires_grad=True)
    is_init = torch.zeros(2, 1010, dtype=torch.bool)
    is_init[:, 0] = True
    assert saved_bytes(lambda: core(x, is_init)) < 120 * 2**20
