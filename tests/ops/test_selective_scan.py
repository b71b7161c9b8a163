"""The selective scan's front end, chunks and memory."""

import math

import pytest
import torch

from resel_torchrl.ops import selective_scan, selective_scan_step
from resel_torchrl.ops.selective_scan.chunked import chunk_length
from tests.ops.cases import CASES, flags, run_with_gradients, saved_bytes

CASE = CASES["selective_scan"]


def _arguments(R, L, D, dtype=torch.float64):
    sequences, weights, state = CASE.inputs(R, L, D, dtype)
    skip = torch.linspace(-1, 1, D, dtype=dtype, requires_grad=True)
    gate = CASE.inputs(R, L, D, dtype, seed=1)[0]["x"]
    return sequences, weights["A"], skip, state, gate


@pytest.mark.parametrize("backend", ["auto", "naive", "torch"])
@pytest.mark.parametrize("gated", [False, True])
def test_steps_make_the_scan(backend, gated):
    s, A, skip, state, z = _arguments(2, 21, 5)
    is_init = flags(2, 21)
    y, last = selective_scan(
        *(s["x"], s["dt"], A, s["B"], s["C"], skip, is_init, state),
        z=z if gated else None,
        backend=backend,
    )
    outputs = []
    for t in range(21):
        at = {name: tensor[:, t] for name, tensor in s.items()}
        output, state = selective_scan_step(
            *(at["x"], at["dt"], A, at["B"], at["C"], skip, is_init[:, t], state),
            z=z[:, t] if gated else None,
        )
        outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs, 1), y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


def test_skip_and_gate_get_gradients():
    s, A, skip, state, z = _arguments(2, 5, 3)
    is_init = flags(2, 5)

    def run(skip, z):
        return selective_scan(
            s["x"], s["dt"], A, s["B"], s["C"], skip, is_init, state, z
        )[0]

    assert torch.autograd.gradcheck(run, (skip, z))


def test_geometric_series():
    """With dt = B = C = x = 1 and A = -ln 2, y_t = 2 - 2^-t after each start."""
    one = torch.ones(1, 6, 1, dtype=torch.float64)
    is_init = torch.tensor([[True, False, False, True, False, False]])
    A = torch.full((1, 1), -math.log(2), dtype=torch.float64)
    y, _ = selective_scan(
        one, one, A, one, one, torch.zeros(1).double(), is_init, one[:, :1]
    )
    assert y.flatten().tolist() == pytest.approx([1, 1.5, 1.75] * 2, rel=1e-12)


@pytest.mark.parametrize("L", [63, 64, 65, 128, 200])
def test_lengths_around_the_chunk(L):
    assert chunk_length(1, 3, 3) == 64
    inputs, is_init = CASE.inputs(1, L, 3), flags(1, L, 0.05)
    torch.testing.assert_close(
        run_with_gradients(CASE.run, inputs, is_init),
        run_with_gradients(CASE.naive, inputs, is_init),
    )


def test_strong_decay_underflows_to_zero_without_nan():
    sequences, weights, state = CASE.inputs(1, 9, 2)
    with torch.no_grad():
        weights["A"].fill_(-1e6)
    y, last, gradients = run_with_gradients(
        CASE.run, (sequences, weights, state), flags(1, 9, 0)
    )
    for tensor in (y, last, *gradients.values()):
        assert tensor.isfinite().all()


def test_keeps_one_state_a_chunk():
    R, L, D, N = 2, 400, 300, 3
    inputs, is_init = CASE.inputs(R, L, D), flags(R, L, 0.01)

    def kept(run):
        sequences, weights, state = inputs
        return saved_bytes(lambda: run(sequences, weights, is_init, state)) / 8

    boundaries = math.ceil(L / chunk_length(R, D, N))
    assert kept(CASE.run) == boundaries * R * D * N + R * L / 8
    assert kept(CASE.naive) >= 3 * R * L * D * N


def test_unknown_backend_names_the_nearest():
    s, A, skip, state, _ = _arguments(1, 2, 1)
    with pytest.raises(ValueError, match=r"'naive', 'torch'.*Did you mean 'naive'"):
        selective_scan(
            *(s["x"], s["dt"], A, s["B"], s["C"], skip, flags(1, 2), state),
            backend="naiv",
        )
