"""The causal convolution against torch's own."""

import itertools

import pytest
import torch

from resel_torchrl.ops import causal_conv, causal_conv_step
from resel_torchrl.ops.causal_conv import BACKENDS
from tests.ops.cases import flags, poisoned_memory, saved_bytes


def _inputs(R, L, D, K):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return draw(R, L, D), draw(D, K), draw(D), draw(R, D, K - 1)


@pytest.mark.parametrize("K", [1, 2, 8])
@pytest.mark.parametrize("L", [1, 3, 63])
def test_matches_conv1d_episode_by_episode(K, L):
    x, weight, bias, state = _inputs(2, L, 5, K)
    is_init = flags(2, L)
    is_init[:, 0] = True
    y, last = causal_conv(x, weight, bias, is_init, state)
    for row in range(2):
        starts = is_init[row].nonzero().flatten().tolist() + [L]
        for begin, end in itertools.pairwise(starts):
            episode = torch.nn.functional.pad(x[row, begin:end].T, (K - 1, 0))
            wanted = torch.nn.functional.conv1d(
                episode, weight.unsqueeze(1), bias, groups=5
            )
            torch.testing.assert_close(y[row, begin:end], wanted.T)
        torch.testing.assert_close(last[row], episode[:, end - begin :])


@pytest.mark.parametrize("K", [1, 8])
def test_steps_make_the_whole(K):
    x, weight, bias, state = _inputs(2, 63, 5, K)
    is_init = flags(2, 63, 0.05)
    y, last = causal_conv(x, weight, bias, is_init, state)
    for t in range(63):
        output, state = causal_conv_step(x[:, t], weight, bias, is_init[:, t], state)
        torch.testing.assert_close(output, y[:, t], rtol=1e-10, atol=1e-10)
    assert torch.equal(state, last)


@pytest.mark.parametrize("L", [2, 9])
def test_gradcheck_with_eight_taps(L):
    x, weight, bias, state = (t.requires_grad_() for t in _inputs(1, L, 2, 8))
    is_init = flags(1, L, 0.2, seed=1)
    assert torch.autograd.gradcheck(
        lambda *t: causal_conv(t[0], t[1], t[2], is_init, t[3]),
        (x, weight, bias, state),
    )


def test_keeps_its_inputs_only():
    x, weight, bias, state = (t.requires_grad_() for t in _inputs(2, 63, 5, 8))
    is_init = flags(2, 63)
    kept = saved_bytes(lambda: causal_conv(x, weight, bias, is_init, state))
    assert kept == is_init.numel()


@pytest.mark.parametrize(
    "backend", [name for name in BACKENDS if BACKENDS[name].device in (None, "cpu")]
)
def test_silu_of_the_outputs(backend):
    if not BACKENDS[backend].is_installed():
        pytest.skip("Numba is not installed")
    inputs = *_inputs(2, 9, 5, 4)[:3], flags(2, 9), torch.zeros(2, 5, 3).double()
    y, last = causal_conv(*inputs, silu=True, backend=backend)
    linear, same = causal_conv(*inputs, backend="naive")
    torch.testing.assert_close(y, torch.nn.functional.silu(linear))
    assert torch.equal(last, same)


@pytest.mark.skipif(not BACKENDS["cpu"].is_installed(), reason="Numba is not installed")
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("K", "L"), [(1, 9), (8, 3), (8, 40), (9, 70), (66, 131)])
def test_any_number_of_taps(K, L, silu):
    """Loops over taps go by fours, and a block of time may be shorter than they are."""
    is_init = flags(2, L, 0.05)
    results = []
    for backend in ("cpu", "naive"):
        inputs = [tensor.requires_grad_() for tensor in _inputs(2, L, 5, K)]
        x, weight, bias, state = inputs
        y, last = causal_conv(
            x, weight, bias, is_init, state, silu=silu, backend=backend
        )
        loss = (y * y.detach().cos()).sum() + (last * last.detach().cos()).sum()
        gradients = torch.autograd.grad(loss, inputs)
        results.append([y, last, *gradients])
    torch.testing.assert_close(*results)


@pytest.mark.skipif(not BACKENDS["cpu"].is_installed(), reason="Numba is not installed")
def test_no_step_leaves_the_state():
    x, weight, bias, state = _inputs(1, 0, 3, 4)
    is_init = flags(1, 0)
    with poisoned_memory():
        _, last = causal_conv(x, weight, bias, is_init, state, backend="cpu")
    assert torch.equal(last, state)
