"""PyTorch's fused LSTM with blank rows against the loop that masks its state."""

import pytest
import torch
from torch.nn.functional import linear

from resel_torchrl.ops import has_fused_lstm, lstm_layer, lstm_scan_naive

# rows, steps, width, share of starts
SIZES = [(4, 201, 64, 0.0), (4, 63, 7, 0.05), (3, 17, 5, 0.9), (2, 1, 3, 0.5)]


def problem(R, L, H, share, dtype=torch.float64):
    torch.manual_seed(R + L + H)
    parameters = [p.detach().to(dtype) for p in torch.nn.LSTM(H, H).parameters()]
    x, state = torch.randn(R, L, H, dtype=dtype), torch.randn(R, 2 * H, dtype=dtype)
    is_init = torch.rand(R, L) < share
    return [t.requires_grad_() for t in (x, state, *parameters)], is_init


def naive(x, is_init, weight_ih, weight_hh, bias_ih, bias_hh, state):
    gates = linear(x, weight_ih, bias_ih)
    return lstm_scan_naive(gates, is_init, weight_hh, bias_hh, state)


@pytest.mark.parametrize(("R", "L", "H", "share"), SIZES)
def test_outputs_final_state_and_all_gradients_equal_the_masked_loop(R, L, H, share):
    (x, state, *parameters), is_init = problem(R, L, H, share)
    results = []
    for run in (lstm_layer, naive):
        y, last = run(x, is_init, *parameters, state)
        loss = (y * torch.arange(1.0, H + 1)).sum() + last.square().sum()
        grads = torch.autograd.grad(loss, [x, state, *parameters])
        results.append((y, last, *grads))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


def test_float32_kernel_agrees_to_rounding():
    (x, state, *parameters), is_init = problem(4, 201, 64, 0.05, torch.float32)
    assert has_fused_lstm(x)
    for fast, slow in zip(
        lstm_layer(x, is_init, *parameters, state),
        naive(x, is_init, *parameters, state),
        strict=True,
    ):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-5)


def test_an_episode_leaks_nothing_into_the_next_one():
    (x, state, *parameters), is_init = problem(2, 12, 5, 0.0)
    is_init[:, 7] = True
    other = x.detach().clone()
    other[:, :7] += torch.randn(2, 7, 5)

    def after(inputs, flags):
        return lstm_layer(inputs, flags, *parameters, state)[0][:, 7:]

    assert torch.equal(after(x, is_init), after(other, is_init))
    no_flags = torch.zeros_like(is_init)
    assert not torch.allclose(after(x, no_flags), after(other, no_flags))
    (grad,) = torch.autograd.grad(after(x, is_init).sum(), x)
    assert grad[:, :7].abs().max() == 0
